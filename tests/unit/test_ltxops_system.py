"""Which packages of a list count as installed, and how an installation that was cut off is told."""

from pathlib import Path

from plugins.modules.ltxops_system import not_installed, was_cut_off

LISTING = "git installed\nnginx config-files\npython3-venv installed\n"


def test_only_what_is_wholly_installed_counts() -> None:
    # A package that was removed leaves its configuration; of one with a version apt alone can judge.
    wanted = ["git", "nginx", "supervisor", "python3-venv=3.11.2-1"]
    assert not_installed(wanted, LISTING) == ["nginx", "supervisor", "python3-venv=3.11.2-1"]
    assert not_installed(["git", "python3-venv"], LISTING) == []


def test_an_installation_that_was_cut_off_is_told_by_what_it_leaves(tmp_path: Path) -> None:  # R48
    journal, policy = tmp_path / "updates", tmp_path / "policy-rc.d"
    assert not was_cut_off(journal, policy)
    journal.mkdir()
    policy.write_text("#!/bin/sh\n# the host's own\nexit 101\n")
    assert not was_cut_off(journal, policy)
    policy.write_text("#!/bin/sh\nexit 101\n")
    assert was_cut_off(journal, policy)
    policy.unlink()
    (journal / "0001").write_text("")
    assert was_cut_off(journal, policy)
