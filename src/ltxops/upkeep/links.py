"""The symbolic links of a tree: one whose target has gone goes too, none is followed."""

import os
import posixpath

from ltxops.upkeep.names import printable
from ltxops.upkeep.output_root import OutputRoot
from ltxops.upkeep.removal import Remover
from ltxops.upkeep.report import Report
from ltxops.upkeep.walk import Age, Folder

#: A link costs memory while a run lasts; what is beyond waits for the next run.
MOST = 20_000


class Links:
    """The links that a walk came by."""

    def __init__(self, root: OutputRoot, age: Age) -> None:
        self._root = root
        self._age = age
        self._found: list[tuple[Folder, str, str]] = []

    def add(self, folder: Folder, fd: int, name: str) -> None:
        """Remember one, and what it means now."""
        if len(self._found) < MOST and (meaning := _meaning_of(self._root, folder, name, fd)):
            self._found.append((folder, name, meaning))

    def remove(self, remover: Remover, report: Report) -> None:
        """Remove links whose target under the root is gone; a link that leads outside is only reported.

        A link that was dangling before this run must be old itself: its target may still be on its way.
        """
        gone = remover.removed() if self._found else frozenset()
        for folder, name, meaning in self._found:
            if meaning == "..":
                report.add_problem(
                    f"{printable(folder.join(name))} leads out of the output folder and was not followed: "
                    "remove the link"
                )
            elif hash(meaning) in gone:
                remover.remove_link(folder, name, lambda _: True)
            elif self._is_missing(meaning):
                remover.remove_link(folder, name, self._age.is_old)

    def _is_missing(self, path: str) -> bool:
        try:
            os.stat(path, dir_fd=self._root.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False
        return False


def _meaning_of(root: OutputRoot, folder: Folder, name: str, fd: int) -> str:
    """Return the path a link means, relative to the root: `..` when it leads outside, empty if unknown."""
    try:
        target = os.readlink(name, dir_fd=fd)
    except OSError:
        return ""
    absolute = posixpath.normpath(posixpath.join(root.path, folder.path, target))
    relative = posixpath.relpath(absolute, root.path)
    return ".." if relative == ".." or relative.startswith("../") else relative
