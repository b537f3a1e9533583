"""Showing a sync while it runs: to a person on stderr, to a program on stdout or in a file.

The threads of a sync only count and queue. One thread of its own shows what they said, a few times a second:
a terminal that is stopped, or a reader that is slow, holds up no download.
"""

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

from ltxops.errors import LtxopsError
from ltxops.models.snapshot import Snapshot
from ltxops.models.tally import Tally

_TICK_SECONDS = 0.2


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

    def expect(self, size: int, arrived: int, files: int | None = None) -> None:
        """Announce how many bytes (and files) will come in all; `arrived` are here from an earlier run."""

    def start(self, dest: str, size: int, arrived: int) -> None:
        """A file of `size` bytes starts; `arrived` of them are there from an earlier run."""

    def advance(self, dest: str, count: int) -> None:
        """More bytes of a file have arrived (less than 0: that many have to come again)."""

    def finish(self, dest: str, size: int) -> None:
        """A file lies under its final name."""


@dataclass(frozen=True)
class Happening:
    """Something that is told at once. Bytes in `size` and `arrived`; `seconds` is how long a file took."""

    kind: Literal["note", "start", "finish"]
    text: str = ""
    dest: str = ""
    size: int = 0
    arrived: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code 0, or another one and the sentence that says why."""

    exit_code: int = 0
    error: str | None = None


class Sink:
    """One place where progress is shown; called by one thread at a time.

    OSError from `begin` or `show` means that nobody looks there any more: it is then not called again.
    """

    def begin(self, snapshot: Snapshot) -> None:
        """The sync holds the root's lock and starts."""

    def show(self, happenings: Sequence[Happening], snapshot: Snapshot) -> None:
        """Show what has happened since the last call, and how far the sync is; called often."""

    def stop(self) -> None:
        """Nothing more happens."""

    def end(self, outcome: Outcome, snapshot: Snapshot) -> None:
        """The command ends, whether or not the sync ever began."""


class Reporter:
    """The Display that counts, queues, and passes on to sinks."""

    def __init__(self) -> None:
        self._sinks: list[Sink] = []
        self._tally = Tally()
        self._happenings: deque[Happening] = deque()
        # A sink that has trouble may add a note while it shows.
        self._showing = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, sink: Sink) -> "Reporter":
        """Show in one more place; before the block is entered."""
        self._sinks.append(sink)
        return self

    def __enter__(self) -> "Reporter":
        snapshot = self._tally.snapshot()
        self._each(lambda sink: sink.begin(snapshot))
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._show()
        self._each(lambda sink: sink.stop())

    def note(self, line: str) -> None:
        self._tally.note = line
        self._tell(Happening("note", text=line))

    def expect(self, size: int, arrived: int, files: int | None = None) -> None:
        self._tally.expect(size, arrived, files)

    def start(self, dest: str, size: int, arrived: int) -> None:
        self._tally.start(dest, size, arrived)
        self._tell(Happening("start", dest=dest, size=size, arrived=arrived))

    def advance(self, dest: str, count: int) -> None:
        self._tally.advance(dest, count)

    def finish(self, dest: str, size: int) -> None:
        seconds = self._tally.finish(dest, size)
        self._tell(Happening("finish", dest=dest, size=size, seconds=seconds))

    def end(self, outcome: Outcome) -> None:
        """Tell the sinks how the command ended."""
        self._show()
        snapshot = self._tally.snapshot()
        self._each(lambda sink: sink.end(outcome, snapshot))

    def _tell(self, happening: Happening) -> None:
        self._happenings.append(happening)
        if self._thread is None:
            self._show()

    def _run(self) -> None:
        while not self._stop.wait(_TICK_SECONDS):
            self._show()

    def _show(self) -> None:
        with self._showing:
            happenings = [self._happenings.popleft() for _ in range(len(self._happenings))]
            snapshot = self._tally.snapshot()
            self._each(lambda sink: sink.show(happenings, snapshot))

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                call(sink)
            except OSError:
                self._sinks.remove(sink)


@contextlib.contextmanager
def showing(*, events: bool = False, progress_file: Path | None = None) -> Iterator[Display]:
    """Give the display that fits: JSON lines on stdout with `events`, else bars or lines on stderr.

    It is told how the block ends, and keeps `progress_file` up to date where one is named.
    """
    reporter = Reporter().add(_events() if events else _for_people())
    if progress_file is not None:
        from ltxops.models.progress_file import ProgressFile

        reporter.add(ProgressFile(progress_file, reporter.note))
    try:
        yield reporter
    except BaseException as error:
        reporter.end(outcome_of(error))
        raise
    reporter.end(Outcome())


def outcome_of(error: BaseException) -> Outcome:
    """Return how the command ends that is stopped by `error`."""
    if isinstance(error, LtxopsError):
        return Outcome(error.exit_code, str(error))
    if isinstance(error, KeyboardInterrupt):
        return Outcome(130, "interrupted")
    return Outcome(1, f"{type(error).__name__}: {error}")


def _events() -> Sink:
    from ltxops.models.events import Events

    return Events()


def _for_people() -> Sink:
    from ltxops.models.terminal import Bars, Lines

    return Bars() if sys.stderr.isatty() else Lines()
