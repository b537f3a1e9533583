"""Progress for a person: bars on a terminal, a line every few seconds in a log. Always on stderr."""

import sys
import time
from collections.abc import Callable, Sequence

from ltxops.models.progress import Happening, Sink
from ltxops.models.snapshot import Snapshot
from ltxops.units import format_bytes

#: A smaller file is there before its announcement was read.
_WORTH_ANNOUNCING_BYTES = 64 * 1024 * 1024
_LINE_SECONDS = 5.0


class Lines(Sink):
    """One line for each file that is finished, and one every few seconds while bytes are under way."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()

    def begin(self, snapshot: Snapshot) -> None:
        self._last = self._clock()

    def show(self, happenings: Sequence[Happening], snapshot: Snapshot) -> None:
        lines = [line for happening in happenings if (line := line_of(happening, snapshot))]
        if snapshot.under_way and self._clock() - self._last >= _LINE_SECONDS:
            self._last = self._clock()
            lines.append(f"so far   {format_bytes(snapshot.bytes_done)}, {snapshot.summary()}")
        if lines:
            # One write, so that other writers to the same log come before or after it.
            sys.stderr.write("".join(f"{line}\n" for line in lines))
            sys.stderr.flush()


def line_of(happening: Happening, snapshot: Snapshot) -> str | None:
    """Return the line that a log gets for a happening, None where it gets none."""
    size = format_bytes(happening.size)
    if happening.kind == "note":
        return happening.text
    if happening.kind == "finish":
        total = format_bytes(snapshot.bytes_total or snapshot.bytes_done)
        so_far = f"{format_bytes(snapshot.bytes_done)} of {total}"
        return f"proven   {happening.dest} ({size} in {happening.seconds:.1f} s; {so_far})"
    if happening.size < _WORTH_ANNOUNCING_BYTES:
        return None
    kept = f", {format_bytes(happening.arrived)} of it here from an earlier run" if happening.arrived else ""
    return f"fetching {happening.dest} ({size}{kept})"


class Bars(Sink):
    """One bar for all files and one for each that is under way, with rate and time left."""

    def __init__(self) -> None:
        # Only a terminal pays for the import.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TaskID,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._tasks: dict[str, TaskID] = {}

    def begin(self, snapshot: Snapshot) -> None:
        self._progress.start()

    def show(self, happenings: Sequence[Happening], snapshot: Snapshot) -> None:
        for happening in happenings:
            if happening.kind == "note":
                self._print(happening.text)
            elif happening.kind == "finish":
                self._print(f"proven {happening.dest} ({format_bytes(happening.size)})")
        if snapshot.bytes_total is not None:
            label = f"all files ({snapshot.files_done}/{snapshot.files_total or '?'})"
            self._bar("", label, snapshot.bytes_total, snapshot.bytes_done)
        for file in snapshot.under_way:
            self._bar(file.dest, file.dest.rsplit("/", 1)[-1], file.size, file.arrived)
        for dest in self._tasks.keys() - {"", *(file.dest for file in snapshot.under_way)}:
            self._progress.remove_task(self._tasks.pop(dest))
        self._progress.refresh()

    def stop(self) -> None:
        self._progress.stop()

    def _bar(self, key: str, label: str, size: int, arrived: int) -> None:
        if key in self._tasks:
            self._progress.update(self._tasks[key], description=label, completed=arrived)
        else:
            self._tasks[key] = self._progress.add_task(label, total=size, completed=arrived)

    def _print(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
