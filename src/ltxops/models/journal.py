"""The journal beside a part file: which of its bytes have arrived, so that a kill costs only the last few.

A text file that only grows: a JSON line that says what the part will be, then a line `START END` for bytes
that were written and a line `source NAME` for the version that the server told of. What was not ended by a
newline was being written at the kill and does not count.
"""

import json
import os
from pathlib import Path

from ltxops.models.lock import LockedFile
from ltxops.models.ranges import Spans

_VERSION = 1


def journal_of(part: Path) -> Path:
    """Return where the journal of a part file lies."""
    return part.with_suffix(".journal")


def read(part: Path, promised: LockedFile) -> tuple[Spans, str | None] | None:
    """Return the bytes that `part` holds and their source, or None when it cannot be relied on.

    Raises OSError other than a missing file.
    """
    try:
        if part.stat().st_size != promised.size:
            return None
        lines = journal_of(part).read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    try:
        return _parse([line.decode() for line in lines], promised)
    except (ValueError, IndexError):
        return None


def _parse(lines: list[str], promised: LockedFile) -> tuple[Spans, str | None]:
    if json.loads(lines[0]) != _header(promised):
        raise ValueError("of another file")
    spans, source = Spans(), None
    for line in lines[1:]:
        first, rest = line.split(" ", 1)
        if first == "source":
            source = rest
            continue
        start, end = int(first), int(rest)
        if not 0 <= start < end <= promised.size:
            raise ValueError("outside of the file")
        spans.add(start, end)
    return spans, source


def _header(promised: LockedFile) -> dict[str, object]:
    return {
        "version": _VERSION,
        "size": promised.size,
        "sha256": promised.sha256,
        "git_blob": promised.git_blob,
    }


class Journal:
    """A journal open for writing. Each line is one write to the end, so that threads need no lock."""

    def __init__(self, part: Path, promised: LockedFile) -> None:
        self._header = json.dumps(_header(promised)) + "\n"
        self._path = journal_of(part)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o644)

    def restart(self) -> None:
        """Forget everything: nothing has arrived."""
        os.ftruncate(self._descriptor, 0)
        self._append(self._header)

    def keep_whole_lines(self) -> None:
        """Drop a last line that a kill left unfinished, so that the next one starts a line of its own."""
        os.ftruncate(self._descriptor, self._path.read_bytes().rfind(b"\n") + 1)

    def arrived(self, start: int, end: int) -> None:
        """Record that the bytes from `start` to `end` were written to the part."""
        self._append(f"{start} {end}\n")

    def source(self, name: str) -> None:
        """Record which version of the content the server says it sends."""
        self._append(f"source {name}\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _append(self, line: str) -> None:
        os.write(self._descriptor, line.encode())
