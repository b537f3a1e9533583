"""How a command becomes one that may ask supervisord, and what its failure means."""

import os
import subprocess
from pathlib import Path

import pytest

from ltxops.errors import AccessDenied, BadInput, CheckFailed, LtxopsError, NetworkError
from ltxops.fleet.inventory import Target
from ltxops.fleet.machine import Finished, as_ltxops_needs, explain


@pytest.fixture
def login(tmp_path: Path) -> Path:
    """A host's commands `id` and `sudo`: who one is, and what sudo was asked for."""
    (tmp_path / "id").write_text('#!/bin/sh\necho "$LOGIN"\n')
    (tmp_path / "sudo").write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >>{tmp_path}/asked\n'
        'while [ "$1" != -- ]; do [ "$1" = -S ] && { read -r word; echo "password $word"; }; shift; done\n'
        'shift\nexec "$@"\n'
    )
    for name in ("id", "sudo"):
        (tmp_path / name).chmod(0o755)
    return tmp_path


def run(login: Path, target: Target, uid: int) -> tuple[str, str]:
    """Run a command as the host would; returns its output and what sudo was asked for."""
    (login / "asked").write_text("")
    done = subprocess.run(
        as_ltxops_needs(target, ["echo", "a  b", "$HOME;'\"", "--", "-n"]),
        env={"PATH": f"{login}:{os.environ['PATH']}", "LOGIN": str(uid)},
        input="secret\n",
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, (login / "asked").read_text()


WORDS = "a  b $HOME;'\" -- -n\n"


@pytest.mark.parametrize(
    ("target", "uid", "asked"),
    [
        (Target("a", "a"), 0, ""),
        (Target("a", "a"), 1000, "-n -u root -- echo"),
        (Target("a", "a", scope="user"), 1000, ""),
        (Target("a", "a", become=False), 1000, ""),
        (Target("a", "a", local=True), 1000, ""),
        (Target("a", "a", scope="user", become=True), 1000, "-n -u root -- echo"),
        (Target("a", "a", become=True, become_user="ops"), 0, "-n -u ops -- echo"),
        (Target("a", "a", become_password="secret"), 0, ""),
    ],
)
def test_who_runs_it(login: Path, target: Target, uid: int, asked: str) -> None:
    out, sudo = run(login, target, uid)
    assert out == WORDS
    assert sudo.startswith(asked)
    assert bool(sudo) == bool(asked)


def test_the_password_goes_by_stdin_and_is_in_no_argument(login: Path) -> None:  # R30
    one = Target("a", "a", become_password="secret")
    assert "secret" not in " ".join(as_ltxops_needs(one, ["x"]))
    out, sudo = run(login, one, 1000)
    assert out == f"password secret\n{WORDS}"
    assert sudo.startswith("-S -p  -u root -- echo")


@pytest.mark.parametrize(
    ("done", "kind", "sentence"),
    [
        (Finished(2, "", "note\nltxops: --x is wrong\n"), BadInput, "gpu1: --x is wrong"),
        (Finished(-1, "", ""), NetworkError, "the connection was lost"),
        (Finished(127, "", "sh: 1: exec: ltxops: not found"), CheckFailed, "provision the host first"),
        (Finished(1, "", "sudo: a password is required\n"), AccessDenied, "set ansible_become_password"),
        (Finished(1, "", "python: No module named ltxops.fleet\n"), CheckFailed, "is older than this one"),
        (Finished(77, "", ""), CheckFailed, "exit code 77"),
    ],
)
def test_why_a_command_failed(done: Finished, kind: type[LtxopsError], sentence: str) -> None:
    failure = explain(Target("gpu1", "gpu1"), done)
    assert type(failure) is kind
    assert str(failure).startswith("gpu1: ")
    assert sentence in str(failure)
