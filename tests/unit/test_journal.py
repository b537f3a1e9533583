"""The journal beside a part file: what survives a kill, and what makes a fetch start over."""

from pathlib import Path

import pytest

from ltxops.models import journal
from ltxops.models.lock import LockedFile
from ltxops.models.part import PartFile, remove

FILE = LockedFile("a.safetensors", 1000, sha256="ab" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    part = PartFile(tmp_path / "a.part", FILE)
    part.write(memoryview(b"x" * 300), 0)
    part.record(0, 100)
    part.record(100, 200)
    part.record(250, 300)
    part.record_source('cdn.example "v 1"')
    part.close()
    return tmp_path / "a.part"


def spans(path: Path, file: LockedFile = FILE) -> list[tuple[int, int]]:
    found = journal.read(path, file)
    return list(found[0]) if found else []


def test_what_was_recorded_is_found_again(path: Path) -> None:
    # R17
    found = journal.read(path, FILE)
    assert found is not None and found[1] == 'cdn.example "v 1"'
    assert spans(path) == [(0, 200), (250, 300)]
    assert path.stat().st_size == FILE.size


def test_a_line_that_a_kill_cut_does_not_count_and_spoils_nothing(path: Path) -> None:
    # R17
    with journal.journal_of(path).open("ab") as stream:
        stream.write(b"300 40")
    assert spans(path) == [(0, 200), (250, 300)]
    part = PartFile(path, FILE)
    part.record(200, 250)
    part.close()
    assert spans(path) == [(0, 300)]


@pytest.mark.parametrize(
    "line", [b"0 1001\n", b"5 5\n", b"-1 5\n", b"9\n", b"x y\n", b"\xff\xfe\n", b"\n", b"\0\0\0\0\n"]
)
def test_a_damaged_journal_counts_for_nothing(path: Path, line: bytes) -> None:
    # R17
    with journal.journal_of(path).open("ab") as stream:
        stream.write(line)
    assert journal.read(path, FILE) is None
    part = PartFile(path, FILE)
    assert part.spans.total == 0
    part.record(0, 10)
    part.close()
    assert spans(path) == [(0, 10)]


@pytest.mark.parametrize(
    "other",
    [
        LockedFile("a.safetensors", 1000, sha256="cd" * 32),
        LockedFile("a.safetensors", 1001, sha256="ab" * 32),
        LockedFile("a.safetensors", 1000, git_blob="ab" * 20),
    ],
)
def test_a_part_of_another_file_counts_for_nothing(path: Path, other: LockedFile) -> None:
    assert spans(path, other) == []


def test_a_part_of_another_size_or_without_a_journal_counts_for_nothing(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.truncate(500)
    assert spans(path) == []
    with path.open("r+b") as stream:
        stream.truncate(1000)
    journal.journal_of(path).unlink()
    assert spans(path) == []
    remove(path)
    assert spans(path) == []


def test_starting_over_forgets_everything(path: Path) -> None:
    part = PartFile(path, FILE)
    part.restart()
    part.close()
    assert spans(path) == []
    assert journal.read(path, FILE) is not None
