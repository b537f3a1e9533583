"""Make room in one tree: its oldest files go, one after the other, until enough is free."""

import os
from collections.abc import Callable

from ltxops.upkeep.disk import settled
from ltxops.upkeep.links import Links
from ltxops.upkeep.output_root import KEPT_NAMES, OutputRoot
from ltxops.upkeep.removal import Remover
from ltxops.upkeep.report import Report
from ltxops.upkeep.selection import Oldest, Rank, rank
from ltxops.upkeep.walk import Age, Folder, walk

Accept = Callable[[str], bool]


class Room:
    """The free bytes of one run; of a dry run, what they would be."""

    def __init__(self, free: Callable[[], int], wanted_bytes: int, dry_run: bool) -> None:
        self._ask = free
        self._dry_run = dry_run
        self.wanted_bytes = wanted_bytes
        self.free = free()

    @property
    def enough(self) -> bool:
        """Whether the goal is reached."""
        return self.free >= self.wanted_bytes

    def gained(self, freed: int) -> None:
        """Count what a deletion gave back, even where the file system has not done so yet."""
        self.free = self.free + freed if self._dry_run else max(self._ask(), self.free + freed)

    def settle(self) -> None:
        """Believe the file system again: others write meanwhile, and some blocks come back late."""
        if not self._dry_run:
            self.free = settled(self._ask, self.wanted_bytes)


def make_room(
    root: OutputRoot,
    age: Age,
    remover: Remover,
    report: Report,
    room: Room,
    accept: Accept | None = None,
    kept: frozenset[str] = KEPT_NAMES,
) -> None:
    """Remove files that `accept` (all, if None) takes by their path, oldest first, until there is room.

    Each look through the tree chooses the oldest files that would do; when they did not (some were in use),
    another look goes on behind the last of them.
    """
    after: Rank | None = None
    while True:
        look = _Look(root, age, remover, report, room, after, accept)
        walk(root, age, look, kept)
        for file in look.oldest.chosen():
            if room.enough:
                room.settle()
            if room.enough:
                break
            after = rank(file, age.now_ns)
            if len(file.names) < file.links:
                report.kept_linked += len(file.names)  # lives on under a name outside: no room comes of it
                continue
            room.gained(remover.remove(file))
        room.settle()
        if room.enough or not look.oldest.left_out:
            look.links.remove(remover, report)
            return


class _Look:
    """One walk: old files are chosen from, nothing is removed but folders that were empty before."""

    def __init__(
        self,
        root: OutputRoot,
        age: Age,
        remover: Remover,
        report: Report,
        room: Room,
        after: Rank | None,
        accept: Accept | None,
    ) -> None:
        self._remover = remover
        self._report = report
        self._accept = accept
        self.first = after is None
        # A dry run meets again what it would have removed in the look before.
        self._already_gone = remover.removed() if report.dry_run else frozenset()
        self.oldest = Oldest(room.wanted_bytes - room.free, age.now_ns, after)
        self.links = Links(root, age)

    def file(self, folder: Folder, fd: int, name: str, info: os.stat_result) -> None:
        path = folder.join(name)
        if self._accept is not None and not self._accept(path):
            return
        if self._already_gone and hash(path) in self._already_gone:
            folder.remaining -= 1
            return
        self.oldest.add(folder, name, info)

    def unseen(self, folder: Folder, fd: int, name: str) -> bool:
        return False

    def link(self, folder: Folder, fd: int, name: str) -> None:
        if self._accept is None:
            self.links.add(folder, fd, name)

    def young(self) -> None:
        self._report.kept_young += self.first

    def leave(self, folder: Folder) -> None:
        self._remover.go_on()
        if self._accept is None:
            self._remover.remove_if_empty(folder)

    def problem(self, text: str) -> None:
        if self.first:
            self._report.add_problem(text)
