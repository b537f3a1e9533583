"""The follower that runs on a host, as a process of its own, and the reader of what it writes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.test_fleet_rotation import rotate

from ltxops.fleet.logs import Records
from ltxops.fleet.retry import Retry

FOLLOW = [sys.executable, "-m", "ltxops.fleet.follow"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "comfyui.log"
    description = {
        "name": "gpu1",
        "scope": "user",
        "supervisor": {"socket": "/none"},
        "programs": [{"name": "comfyui", "log": str(path)}, {"name": "mute"}],
    }
    (tmp_path / "host.json").write_text(json.dumps(description))
    return path


class Following:
    """A follower, and what it has said."""

    def __init__(self, log: Path, *words: str) -> None:
        config = str(log.with_name("host.json"))
        command = [*FOLLOW, "--config", config, "--program", "comfyui", *words]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self.records = Records()
        self.lines: list[str] = []
        self.remarks: list[str] = []

    def look(self) -> None:
        assert self.process.stdout is not None
        for text, remark in self.records.feed(self.process.stdout.read() or b""):
            (self.remarks if remark else self.lines).append(text)

    def until(self, last: str) -> list[str]:
        deadline = time.monotonic() + 60
        while not self.lines or self.lines[-1] != last:
            assert time.monotonic() < deadline, (last, self.lines[-3:], self.remarks)
            time.sleep(0.02)
            self.look()
        return self.lines

    def close(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = self.process.wait(60)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code


@pytest.fixture
def following(log: Path) -> Iterator[Following]:
    log.write_text("zero\none\n")
    one = Following(log, "--lines", "1", "--forever")
    yield one
    if one.process.poll() is None:
        one.process.kill()
    if one.process.stdin and not one.process.stdin.closed:
        one.close()


def add(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def test_a_line_cut_in_two_by_a_rotation_is_one_line(log: Path, following: Following) -> None:  # R50
    following.until("one")
    add(log, "two\nthr")
    rotate(log)
    following.until("two")
    add(log, "ee\nfour\n")
    assert following.until("four") == ["one", "two", "three", "four"]
    assert following.remarks == []


def test_two_rotations_between_two_looks_lose_nothing(log: Path, following: Following) -> None:  # R50
    following.until("one")
    for number in range(2, 5):
        add(log, f"{number}a\n")
        rotate(log)
        add(log, f"{number}b\n")
    assert following.until("4b") == ["one", "2a", "2b", "3a", "3b", "4a", "4b"]


def test_an_emptied_log_goes_on_with_a_remark(log: Path, following: Following) -> None:
    following.until("one")
    os.truncate(log, 0)
    time.sleep(0.5)
    add(log, "x\n")
    following.until("x")
    assert following.remarks == ["the log was emptied"]


def test_a_deleted_log_that_appears_again_is_followed(log: Path, following: Following) -> None:
    following.until("one")
    log.unlink()
    time.sleep(0.3)
    add(log, "again\n")
    assert following.until("again") == ["one", "again"]


def test_it_ends_when_its_stdin_does(following: Following) -> None:
    following.until("one")
    assert following.close() == 0


def test_a_log_that_is_not_there_yet_is_waited_for(log: Path) -> None:
    one = Following(log, "--lines", "5", "--forever")
    time.sleep(0.5)
    add(log, "first\n")
    one.until("first")
    one.close()


def test_taken_up_after_a_position_nothing_is_missing_or_twice(
    log: Path, following: Following
) -> None:  # R50
    following.until("one")
    add(log, "two\nthree, half of ")
    following.until("two")
    position = following.records.position
    following.close()
    add(log, "it\n")
    rotate(log)
    add(log, "four\n")
    one = Following(log, "--lines", "99", "--forever", "--after", position)
    assert one.until("four") == ["three, half of it", "four"]
    one.close()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--program", "nix"], 2, "there is no program 'nix' on gpu1: choose one of comfyui, mute"),
        (["--program", "mute"], 1, "mute has no log"),
        (["--program", "comfyui"], 1, "there is no log at"),
        (["--program", "comfyui", "--after", "x"], 2, "the position 'x'"),
        (["--program", "comfyui", "--config", "/nix"], 2, "/nix cannot be read"),
    ],
)
def test_what_cannot_be_followed_is_one_sentence(
    log: Path, words: list[str], code: int, sentence: str
) -> None:
    config = str(log.with_name("host.json"))
    done = subprocess.run(
        [*FOLLOW, "--config", config, *words],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == code
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_record_counts_when_its_position_has_come() -> None:  # R50
    records = Records()
    assert list(records.feed(b"=one\n=tw")) == []
    assert list(records.feed(b"o\n@1:2:ab")) == []
    assert records.position == ""
    assert list(records.feed(b"c\n=three\n")) == [("one", False), ("two", False)]
    assert records.position == "1:2:abc"
    records.drop()
    assert list(records.feed(b"=three\n!a remark\n@1:3:abc\n")) == [("three", False), ("a remark", True)]


def test_what_a_log_holds_cannot_drive_the_terminal() -> None:
    records = Records()
    nasty = "\x1b]0;title\x07\x1b[2J\x1b[31mred\x1b[0m 10%\r 20%\x9b5n\u202e done\tok".encode()
    ((text, _),) = records.feed(b"=" + nasty + b"\n@1:2:c\n")
    assert text == " 20%?5n? done\tok"


def test_retrying_is_bounded_and_starts_anew_after_a_connection_that_held() -> None:  # R50
    now = 0.0
    retry = Retry(60, lambda: now)
    waits = []
    while (wait := retry.lost()) is not None:
        waits.append(wait)
        now += wait
    assert now == pytest.approx(60)
    assert waits[0] <= 1.2
    assert max(waits) <= 15 * 1.2
    assert len(waits) < 12
    retry.connected()
    now += 5
    assert retry.lost() is None, "held for a moment only"
    retry.connected()
    now += 11
    wait = retry.lost()
    assert wait is not None
    assert wait <= 1.2
    assert Retry(0, lambda: now).lost() is None


def test_a_host_needs_no_more_than_the_package() -> None:
    """What runs there must not import what only the control machine has."""
    absent = (
        "import sys; sys.modules.update(dict.fromkeys(('fabric', 'paramiko', 'invoke', 'ansible', 'rich')))"
    )
    code = f"{absent}\nimport ltxops.fleet.follow, ltxops.upkeep.restart"
    subprocess.run([sys.executable, "-c", code], check=True)
