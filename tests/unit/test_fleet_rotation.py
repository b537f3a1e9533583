"""A log and its rotated predecessors read as one stream, from any place."""

import os
from pathlib import Path

import pytest

from ltxops.errors import BadInput
from ltxops.fleet.rotation import Part, Position, after, last_lines, newer_than, parse_position, parts


def rotate(log: Path, keep: int = 5) -> None:
    """Do what supervisord does: the oldest goes, each other one up by one."""
    log.with_name(f"{log.name}.{keep}").unlink(missing_ok=True)
    for number in range(keep - 1, 0, -1):
        older = log.with_name(f"{log.name}.{number}")
        if older.exists():
            older.rename(log.with_name(f"{log.name}.{number + 1}"))
    log.rename(log.with_name(f"{log.name}.1"))


def rest(found: list[Part]) -> bytes:
    """Read all that is left, and close."""
    text = b""
    for part in found:
        while data := part.read():
            text += data
        part.file.close()
    return text


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "comfyui.log"
    file.write_text("one\ntwo\nthree\n")
    # What has a similar name is no part of it.
    for name in ("comfyui.log.bak", "comfyui.logger", "comfyui.log.1.gz", "wrapper.log.1"):
        (tmp_path / name).write_text("never\n")
    return file


@pytest.mark.parametrize(
    ("lines", "expected"),
    [(0, b""), (1, b"three\n"), (2, b"two\nthree\n"), (3, b"one\ntwo\nthree\n"), (9, b"one\ntwo\nthree\n")],
)
def test_last_lines(log: Path, lines: int, expected: bytes) -> None:
    assert rest(last_lines(log, lines)) == expected


def test_last_lines_go_back_into_rotated_files_and_over_long_lines(log: Path) -> None:  # R50
    rotate(log)
    log.write_bytes(b"x" * 200_000 + b"\nlast, and unfini")
    assert rest(last_lines(log, 3)) == b"two\nthree\n" + log.read_bytes()
    assert rest(last_lines(log, 1)) == log.read_bytes()
    assert rest(last_lines(log, 0)) == b"last, and unfini"


def test_without_a_log_there_is_nothing(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "none.log", 5) == []
    assert last_lines(tmp_path / "no-folder/none.log", 5) == []


def test_several_rotations_behind_ones_back_are_all_found(log: Path) -> None:  # R50
    (current,) = parts(log)
    text = rest_of_one(current)
    for number in range(3):
        with log.open("a") as file:
            file.write(f"end {number}\n")
        rotate(log)
        log.write_text(f"begin {number}\n")
    text += rest_of_one(current)
    newer, complete = newer_than(current, log)
    assert complete
    text += rest(newer)
    current.file.close()
    expected = b"one\ntwo\nthree\nend 0\nbegin 0\nend 1\nbegin 1\nend 2\nbegin 2\n"
    assert text == expected


def test_rotated_away_while_it_was_read_is_told(log: Path) -> None:  # R50
    (current,) = parts(log)
    rest_of_one(current)
    for number in range(3):
        rotate(log, keep=2)
        log.write_text(f"{number}\n")
    newer, complete = newer_than(current, log)
    assert not complete
    assert rest(newer) == b"0\n1\n2\n"
    current.file.close()


def test_an_older_file_put_in_its_place_is_taken_up(log: Path) -> None:
    (current,) = parts(log)
    older = log.with_name("saved")
    older.write_text("saved\n")
    os.utime(older, (1, 1))
    older.rename(log)
    newer, _ = newer_than(current, log)
    assert rest(newer) == b"saved\n"
    current.file.close()


def at(log: Path, offset: int) -> Position:
    """Return the position at an offset of the newest file."""
    found = parts(log)
    position = found[0].position(offset)
    for part in found:
        part.file.close()
    return parse_position(str(position))


def rest_of_one(part: Part) -> bytes:
    text = b""
    while data := part.read():
        text += data
    return text


def test_going_on_after_a_position(log: Path) -> None:  # R50
    position = at(log, 4)
    found, complete = after(log, position)
    assert (rest(found), complete) == (b"two\nthree\n", True)
    rotate(log)
    log.write_text("four\n")
    rotate(log)
    log.write_text("five\n")
    found, complete = after(log, position)
    assert (rest(found), complete) == (b"two\nthree\nfour\nfive\n", True)


def test_going_on_from_the_beginning_of_a_file(log: Path) -> None:
    log.write_text("")
    position = at(log, 0)
    log.write_text("first\n")
    rotate(log)
    log.write_text("second\n")
    found, complete = after(log, position)
    assert (rest(found), complete) == (b"first\nsecond\n", True)


def test_a_copy_with_another_inode_is_recognised(log: Path) -> None:  # copytruncate of logrotate
    position = at(log, 8)
    log.with_name("comfyui.log.1").write_bytes(log.read_bytes())
    os.truncate(log, 0)
    with log.open("a") as file:
        file.write("four\n")
    found, complete = after(log, position)
    assert (rest(found), complete) == (b"three\nfour\n", True)


def test_an_inode_used_again_is_not_taken_for_the_same_file(log: Path) -> None:  # R50
    position = at(log, 8)
    # Written in place: the same inode, as when a deleted file's number goes to a new one.
    log.write_text("another file altogether\n")
    found, complete = after(log, position)
    assert (rest(found), complete) == (b"another file altogether\n", False)


def test_a_position_that_is_gone_means_all_there_is_and_is_told(log: Path) -> None:  # R50
    position = at(log, 8)
    rotate(log)
    log.write_text("new\n")
    log.with_name("comfyui.log.1").unlink()
    rotate(log)
    log.write_text("newer\n")
    found, complete = after(log, position)
    assert (rest(found), complete) == (b"new\nnewer\n", False)


@pytest.mark.parametrize("text", ["", "1:2:3", "a:2:3:c", "1:-2:3:c", "1:2:3:4:5"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="position"):
        parse_position(text)
