"""Showing a sync while it runs: bars on a terminal, one line a file in a log. Always on stderr."""

import sys
import threading
import time
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ltxops.units import format_bytes

#: A smaller file is there before its announcement was read.
_WORTH_ANNOUNCING_BYTES = 64 * 1024 * 1024


class Display(Protocol):
    """What a sync tells while it runs. Called from several threads."""

    def __enter__(self) -> "Display":
        """Start showing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""

    def note(self, line: str) -> None:
        """Show a line that stays."""

    def expect(self, size: int, arrived: int) -> None:
        """Announce how many bytes will come in all, and how many of them are there from an earlier run."""

    def start(self, dest: str, size: int, arrived: int) -> None:
        """A file of `size` bytes starts; `arrived` of them are there from an earlier run."""

    def advance(self, dest: str, count: int) -> None:
        """More bytes of a file have arrived (less than 0: that many have to come again)."""

    def finish(self, dest: str, size: int) -> None:
        """A file lies under its final name."""


class Lines:
    """One line for each file that is finished, and one for a large file that starts; for logs."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._total = 0
        self._done = 0
        self._started: dict[str, float] = {}

    def __enter__(self) -> "Lines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def note(self, line: str) -> None:
        # One write a line: print() writes the line and its end apart, and the threads would mix them.
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def expect(self, size: int, arrived: int) -> None:
        self._total, self._done = size, arrived

    def start(self, dest: str, size: int, arrived: int) -> None:
        with self._guard:
            self._started[dest] = time.monotonic()
        if size >= _WORTH_ANNOUNCING_BYTES:
            kept = f", {format_bytes(arrived)} of it here from an earlier run" if arrived else ""
            self.note(f"fetching {dest} ({format_bytes(size)}{kept})")

    def advance(self, dest: str, count: int) -> None:
        with self._guard:
            self._done += count

    def finish(self, dest: str, size: int) -> None:
        with self._guard:
            seconds = time.monotonic() - self._started.pop(dest)
            done = self._done
        self.note(
            f"proven   {dest} ({format_bytes(size)} in {seconds:.1f} s; {format_bytes(done)} of "
            f"{format_bytes(self._total)})"
        )


class Bars:
    """One bar for each file that is on its way and one for all of them, for terminals."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._all = self._progress.add_task("all files", total=None)
        self._tasks = {"": self._all}

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def note(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def expect(self, size: int, arrived: int) -> None:
        self._progress.update(self._all, total=size, completed=arrived)

    def start(self, dest: str, size: int, arrived: int) -> None:
        name = dest.rsplit("/", 1)[-1]
        self._tasks[dest] = self._progress.add_task(name, total=size, completed=arrived)

    def advance(self, dest: str, count: int) -> None:
        self._progress.advance(self._tasks[dest], count)
        self._progress.advance(self._all, count)

    def finish(self, dest: str, size: int) -> None:
        self._progress.remove_task(self._tasks.pop(dest))
        self.note(f"proven {dest} ({format_bytes(size)})")


def display() -> Display:
    """Return bars when stderr is a terminal, else lines."""
    return Bars() if sys.stderr.isatty() else Lines()
