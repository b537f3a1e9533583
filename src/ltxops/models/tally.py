"""Counting what arrives. `advance` is called for every chunk, from many threads, so it takes no lock."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ltxops.models.snapshot import FileProgress, Sample, Snapshot, rate_of, window_of

#: The rate is that of the last seconds: short enough to show a stall, long enough not to flicker.
_RATE_SECONDS = 10.0


@dataclass
class _File:
    size: int
    #: Bytes that an earlier run left, less what was counted under this name before.
    before: int
    began: float
    finished: bool = False


class Tally:
    """The bytes and files of one sync. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._files: dict[str, _File] = {}
        self._expected: tuple[int, int, int | None] | None = None
        self._from_before = 0
        self._samples: list[Sample] = []
        self._mine = threading.local()
        #: What each thread has counted; only that thread writes to its own.
        self._counts: list[dict[str, int]] = []
        self.note = ""

    def expect(self, size: int, arrived: int, files: int | None) -> None:
        """Take the bytes and files of the whole sync, and how many bytes an earlier run left."""
        with self._guard:
            self._expected = (size, arrived, files)

    def start(self, dest: str, size: int, arrived: int) -> None:
        """A file starts with `arrived` bytes of an earlier run."""
        with self._guard:
            self._files[dest] = _File(size, arrived - self._counted().get(dest, 0), self._clock())
            self._from_before += arrived

    def advance(self, dest: str, count: int) -> None:
        """Count bytes of a file."""
        try:
            mine: dict[str, int] = self._mine.counts
        except AttributeError:
            mine = self._mine.counts = {}
            with self._guard:
                self._counts.append(mine)
        mine[dest] = mine.get(dest, 0) + count

    def finish(self, dest: str, size: int) -> float:
        """A file is in its place, however its bytes came; return how many seconds it took."""
        with self._guard:
            file = self._files.setdefault(dest, _File(size, 0, self._clock()))
            file.finished = True
            return self._clock() - file.began

    def snapshot(self) -> Snapshot:
        """Return how far the sync is now. Called every now and then, by one thread at a time."""
        with self._guard:
            counted = self._counted()
            now = self._clock()
            self._samples = window_of([*self._samples, (now, sum(counted.values()))], now, _RATE_SECONDS)
            total, left_before, files_total = self._expected or (None, 0, None)
            here = {
                dest: file.size if file.finished else min(file.before + counted.get(dest, 0), file.size)
                for dest, file in self._files.items()
            }
            # What an earlier run left of files that have not started yet is here as well.
            done = sum(here.values()) + max(0, left_before - self._from_before)
            return Snapshot(
                bytes_total=total,
                bytes_done=done if total is None else min(done, total),
                rate_bytes_per_second=rate_of(self._samples),
                files_total=files_total,
                files_done=sum(file.finished for file in self._files.values()),
                under_way=tuple(
                    FileProgress(dest, file.size, here[dest])
                    for dest, file in self._files.items()
                    if not file.finished
                ),
                note=self.note,
            )

    def _counted(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for counts in self._counts:
            # A copy, made in one step, of what its thread goes on writing to.
            for dest, count in counts.copy().items():
                total[dest] = total.get(dest, 0) + count
        return total
