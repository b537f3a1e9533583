"""The oldest files of a tree, no more of them than are wanted: flat memory, however many there are."""

import heapq
import os
from dataclasses import dataclass, field

from ltxops.upkeep.names import changed_at
from ltxops.upkeep.oldfile import Name, OldFile
from ltxops.upkeep.output_root import FileKey
from ltxops.upkeep.walk import Folder

#: So many files are chosen in one look; when they were not enough, there is another look.
MOST = 20_000

#: When a file changed last, then its inode: two files are never equal.
Rank = tuple[int, FileKey]


def rank(file: OldFile, now_ns: int) -> Rank:
    """Return where a file stands in the order of going, oldest first."""
    return (changed_at(file.mtime_ns, file.ctime_ns, now_ns), file.key)


@dataclass(order=True)
class _Newest:
    """An entry of a heap that has the newest file on top (heapq keeps the smallest there)."""

    backwards: tuple[int, int, int]
    file: OldFile = field(compare=False)


class Oldest:
    """Chooses, of the files it is shown, the oldest ones that free `wanted_bytes` together."""

    def __init__(self, wanted_bytes: int, now_ns: int, after: Rank | None) -> None:
        self._wanted_bytes = wanted_bytes
        self._now_ns = now_ns
        self._after = after
        self._heap: list[_Newest] = []
        self._linked: dict[FileKey, OldFile] = {}
        self._bytes = 0
        self.left_out = False
        """Whether there are more old files than were chosen."""

    def add(self, folder: Folder, name: str, info: os.stat_result) -> None:
        """Show one name of an old file."""
        name_of_it: Name = (folder, name)
        known = self._linked.get((info.st_dev, info.st_ino)) if info.st_nlink > 1 else None
        if known is not None:
            known.names.append(name_of_it)
            return
        changed = changed_at(info.st_mtime_ns, info.st_ctime_ns, self._now_ns)
        key = (info.st_dev, info.st_ino)
        if self._after is not None and (changed, key) <= self._after:
            return
        backwards = (-changed, -key[0], -key[1])
        if self._heap and backwards < self._heap[0].backwards and self._enough_without(0):
            self.left_out = True
            return
        file = OldFile.of(info)
        file.names.append(name_of_it)
        heapq.heappush(self._heap, _Newest(backwards, file))
        self._bytes += _certain_bytes(file)
        if info.st_nlink > 1:
            self._linked[key] = file
        while self._enough_without(_certain_bytes(self._heap[0].file)) and len(self._heap) > 1:
            newest = heapq.heappop(self._heap).file
            self._bytes -= _certain_bytes(newest)
            self._linked.pop(newest.key, None)
            self.left_out = True

    def _enough_without(self, bytes_of_one: int) -> bool:
        return self._bytes - bytes_of_one >= self._wanted_bytes or len(self._heap) > MOST

    def chosen(self) -> list[OldFile]:
        """Return the chosen files, oldest first."""
        return [entry.file for entry in sorted(self._heap, reverse=True)]


def _certain_bytes(file: OldFile) -> int:
    """Of a file with several names it is not yet known whether they all lie in the tree."""
    return file.bytes if file.links == 1 else 0
