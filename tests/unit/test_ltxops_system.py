"""Which packages of a list count as installed."""

from plugins.modules.ltxops_system import not_installed

LISTING = "git installed\nnginx config-files\npython3-venv installed\n"


def test_only_what_is_wholly_installed_counts() -> None:
    # A package that was removed leaves its configuration; of one with a version apt alone can judge.
    wanted = ["git", "nginx", "supervisor", "python3-venv=3.11.2-1"]
    assert not_installed(wanted, LISTING) == ["nginx", "supervisor", "python3-venv=3.11.2-1"]
    assert not_installed(["git", "python3-venv"], LISTING) == []
