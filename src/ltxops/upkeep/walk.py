"""Go through a tree without changing it: what is old goes to a visitor, folder by folder.

The walk is relative to open descriptors, follows no link and stays on one mount. Memory does not grow with
the number of files: a folder is read in batches, and only the way down to it is remembered.
"""

import os
import posixpath
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Protocol

from ltxops.upkeep.names import printable
from ltxops.upkeep.output_root import FOLDER_FLAGS, KEPT_NAMES, FileKey, OutputRoot, file_key, mount_id

#: So many entries of a folder are handled before its place in the tree is proven again.
BATCH = 512
#: Each level holds a descriptor open; a process often may have 1024.
DEEPEST = 350


class Replaced(Exception):
    """A folder is not the one that was seen before: it was swapped while the run went on."""


class Folder:
    """A folder below the root (or the root, without parent), as it was when first seen."""

    __slots__ = ("complete", "key", "name", "old", "parent", "path", "remaining")

    def __init__(self, parent: "Folder | None", name: str, key: FileKey, old: bool) -> None:
        self.parent = parent
        self.name = name
        self.key = key
        self.old = old
        self.path: str = posixpath.join(parent.path, name) if parent else ""
        """Relative to the root, empty for the root."""
        self.remaining = 0
        """How many entries it has; whoever removes one counts down, so that an emptied folder is known."""
        self.complete = False
        """Whether all its entries were seen, so that none remaining means empty."""

    def join(self, name: str) -> str:
        """Path of an entry of this folder, relative to the root."""
        return f"{self.path}/{name}" if self.path else name


class Age:
    """What counts as old in one run: last changed at or before `cutoff_ns`."""

    def __init__(self, older_than_seconds: int) -> None:
        self.now_ns = time.time_ns()
        self.cutoff_ns = self.now_ns - older_than_seconds * 1_000_000_000

    def is_old(self, info: os.stat_result) -> bool:
        """Tell whether both mtime and ctime are old: names.changed_at(), spelt out for a million calls."""
        changed, ctime_ns = info.st_mtime_ns, info.st_ctime_ns
        if changed <= ctime_ns or changed > self.now_ns:
            changed = ctime_ns
        return changed <= self.cutoff_ns


class Visitor(Protocol):
    """Who is told what lies in the tree."""

    def file(self, folder: Folder, fd: int, name: str, info: os.stat_result) -> None:
        """An old regular file; `fd` is its folder, open."""

    def unseen(self, folder: Folder, fd: int, name: str) -> bool:
        """A regular file of unknown age; False if it has to be shown in another way."""

    def link(self, folder: Folder, fd: int, name: str) -> None:
        """A symbolic link of any age."""

    def young(self) -> None:
        """A regular file that is not old."""

    def leave(self, folder: Folder) -> None:
        """Everything below `folder` was seen."""

    def problem(self, text: str) -> None:
        """Something is not as it should be and is left alone."""


def walk(root: OutputRoot, age: Age, visitor: Visitor, kept: frozenset[str] = KEPT_NAMES) -> None:
    """Show `visitor` everything below `root`, except regular files with a name in `kept`."""
    _Walk(root, age, visitor, kept).visit(Folder(None, "", root.key, False), 0)


class _Walk:
    def __init__(self, root: OutputRoot, age: Age, visitor: Visitor, kept: frozenset[str]) -> None:
        self._root = root
        self._age = age
        self._visitor = visitor
        self._kept = kept
        self._was_old = False

    def visit(self, folder: Folder, depth: int) -> None:
        try:
            with opened(self._root, folder) as fd:
                if mount_id(fd) != self._root.mount_id:
                    return
                for below in self._entries(folder, fd):
                    if depth < DEEPEST:
                        self.visit(below, depth + 1)
                    else:
                        self._visitor.problem(f"{printable(below.path)} lies too deep and was left alone")
                folder.complete = True
                self._visitor.leave(folder)
        except Replaced:
            self._visitor.problem(f"{printable(folder.path)} was replaced during the run and left alone")
        except FileNotFoundError:
            return  # somebody else removed it
        except OSError as error:
            self._visitor.problem(f"{printable(folder.path)} cannot be read ({error.strerror})")

    def _entries(self, folder: Folder, fd: int) -> list[Folder]:
        """Show the files and links of one folder; returns the folders to go into."""
        below: list[Folder] = []
        with os.scandir(fd) as entries:
            while batch := list(islice(entries, BATCH)):
                folder.remaining += len(batch)
                for entry in batch:
                    try:
                        if entry.is_file(follow_symlinks=False):
                            self._file(folder, fd, entry)
                        elif entry.is_dir(follow_symlinks=False):
                            info = entry.stat(follow_symlinks=False)
                            below.append(Folder(folder, entry.name, file_key(info), self._age.is_old(info)))
                        elif entry.is_symlink():
                            self._visitor.link(folder, fd, entry.name)
                    except FileNotFoundError:
                        folder.remaining -= 1
                if len(batch) == BATCH:
                    with opened(self._root, folder):
                        pass
        return below

    def _file(self, folder: Folder, fd: int, entry: "os.DirEntry[str]") -> None:
        name = entry.name
        if name in self._kept:
            return
        # Old ones mostly lie together: after one, the visitor may look at the next itself.
        if self._was_old and self._visitor.unseen(folder, fd, name):
            return
        info = entry.stat(follow_symlinks=False)
        self._was_old = self._age.is_old(info)
        if self._was_old:
            self._visitor.file(folder, fd, name, info)
        else:
            self._visitor.young()


@contextmanager
def opened(root: OutputRoot, folder: Folder) -> Iterator[int]:
    """Open `folder` by going down from the root, never through a link.

    Raises Replaced when what is there now is not the folder that was seen, FileNotFoundError when it is gone.
    """
    fd = os.open(".", FOLDER_FLAGS, dir_fd=root.fd)
    try:
        for name in folder.path.split("/") if folder.path else ():
            try:
                below = os.open(name, FOLDER_FLAGS, dir_fd=fd)
            except NotADirectoryError:
                raise Replaced(folder.path) from None
            os.close(fd)
            fd = below
        if file_key(os.fstat(fd)) != folder.key:
            raise Replaced(folder.path)
        yield fd
    finally:
        os.close(fd)
