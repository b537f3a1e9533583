"""A log and its rotated predecessors (`x.log`, `x.log.1`, `x.log.2` …) as one stream of bytes.

A place in that stream is kept as inode, offset and a checksum of the bytes before it: inodes are used again,
and a copy of the file has another one.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ltxops.errors import BadInput

#: So many bytes before a place identify it.
_FINGERPRINT_BYTES = 256
_BLOCK_BYTES = 65536


@dataclass(frozen=True)
class Position:
    """Everything up to here has been read: `offset` bytes of the file, last written at `changed` (ns)."""

    inode: int
    offset: int
    changed: int
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.inode}:{self.offset}:{self.changed}:{self.fingerprint}"


def parse_position(text: str) -> Position:
    """Return the position that `str` made. Raises BadInput."""
    words = text.split(":")
    if len(words) != 4 or not all(word.isdecimal() for word in words[:3]):
        raise BadInput(f"the position {text!r} is not inode:offset:changed:fingerprint")
    return Position(int(words[0]), int(words[1]), int(words[2]), words[3])


@dataclass(eq=False)
class Part:
    """One file of the log, kept open: so a renamed or deleted one can be read. `offset` is what was read."""

    file: BinaryIO
    offset: int = 0

    @property
    def inode(self) -> int:
        """Return the inode, which no other file has while this one is open."""
        return os.fstat(self.file.fileno()).st_ino

    @property
    def size(self) -> int:
        """Return the size in bytes, now."""
        return os.fstat(self.file.fileno()).st_size

    @property
    def changed(self) -> int:
        """Return when it was last written, in nanoseconds since the epoch."""
        return os.fstat(self.file.fileno()).st_mtime_ns

    def read(self) -> bytes:
        """Return the next bytes, none at the end."""
        data = os.pread(self.file.fileno(), _BLOCK_BYTES, self.offset)
        self.offset += len(data)
        return data

    def position(self, offset: int) -> Position:
        """Return the position at `offset`."""
        return Position(self.inode, offset, self.changed, self._fingerprint(offset))

    def holds(self, position: Position) -> bool:
        """Tell whether the position lies in this file, by its bytes and not by its inode."""
        if position.offset == 0:
            return self.inode == position.inode
        return self.size >= position.offset and self._fingerprint(position.offset) == position.fingerprint

    def _fingerprint(self, offset: int) -> str:
        start = max(0, offset - _FINGERPRINT_BYTES)
        return hashlib.sha1(os.pread(self.file.fileno(), offset - start, start)).hexdigest()[:12]

    def last_lines(self, lines: int) -> int:
        """Move the offset so that at most `lines` complete lines follow, and return how many do."""
        found, end = 0, self.size
        while end > 0:
            start = max(0, end - _BLOCK_BYTES)
            block = os.pread(self.file.fileno(), end - start, start)
            at = len(block)
            while (at := block.rfind(b"\n", 0, at)) >= 0:
                if found == lines:
                    self.offset = start + at + 1
                    return found
                found += 1
            end = start
        self.offset = 0
        return found


def parts(path: Path) -> list[Part]:
    """Open the log and its predecessors, newest first.

    A rotation in the midst of this moves files towards higher numbers, the way this goes: it can show a file
    twice, which is taken once, but hides none. Raises OSError where the folder or a file may not be read.
    """
    with suppress(FileNotFoundError):
        return _opened(path, range(_highest(path) + 2))
    return []


def _highest(path: Path) -> int:
    names = (entry.name for entry in path.parent.iterdir())
    suffixes = (name[len(path.name) + 1 :] for name in names if name.startswith(f"{path.name}."))
    return max((int(suffix) for suffix in suffixes if suffix.isascii() and suffix.isdecimal()), default=0)


def _opened(path: Path, numbers: Iterable[int]) -> list[Part]:
    found: list[Part] = []
    for number in numbers:
        with suppress(FileNotFoundError):
            part = Part((path.with_name(f"{path.name}.{number}") if number else path).open("rb", buffering=0))
            if any(part.inode == other.inode for other in found):
                part.file.close()
            else:
                found.append(part)
    return found


def newer_than(current: Part, path: Path) -> tuple[list[Part], bool]:
    """Return the files that came after `current`, oldest first, and whether none of them can be missing."""
    found = parts(path)
    for index, part in enumerate(found):
        if part.inode == current.inode:
            return _only(found, range(index)), True
    newer = _written_since(found, current.changed)
    return _only(found, newer), len(newer) < len(found) or len(found) < 2


def last_lines(path: Path, lines: int) -> list[Part]:
    """Return what to read for the last `lines` lines and what follows, oldest first; empty without a log."""
    found = parts(path)
    count = 0
    while count < len(found) and (lines > 0 or count == 0):
        lines -= found[count].last_lines(lines)
        count += 1
    return _only(found, range(count))


def after(path: Path, position: Position) -> tuple[list[Part], bool]:
    """Return what to read after `position`, oldest first, and whether nothing in between is missing."""
    found = parts(path)
    same_inode_first = sorted(range(len(found)), key=lambda index: found[index].inode != position.inode)
    for index in same_inode_first:
        if found[index].holds(position):
            found[index].offset = position.offset
            return _only(found, range(index + 1)), True
    return _only(found, _written_since(found, position.changed)), False


def _written_since(found: Sequence[Part], moment: int) -> list[int]:
    """Return which files were last written at `moment` or later, and the newest in any case."""
    return [index for index, part in enumerate(found) if index == 0 or part.changed >= moment]


def _only(found: Sequence[Part], chosen: Sequence[int]) -> list[Part]:
    """Close what was not chosen, and return the rest, oldest first."""
    for index, part in enumerate(found):
        if index not in chosen:
            part.file.close()
    return [found[index] for index in reversed(chosen)]
