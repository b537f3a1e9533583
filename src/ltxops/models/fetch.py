"""Bringing files from the hub: many ranges at a time, hashed while they arrive, resumed after a kill.

A thread for each connection brings ranges of the files that are open (`transfer`); a thread for each open
file hashes what has come and places the file (`follow`); the calling thread opens files in order, decides how
many connections pay, and shows how far everything is.
"""

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ltxops.errors import AccessDenied, BadInput, DiskFull, IntegrityError, LtxopsError
from ltxops.models import part as parts
from ltxops.models.arrival import Arrival
from ltxops.models.board import Board
from ltxops.models.connection import Lines
from ltxops.models.follow import Stopped, follow
from ltxops.models.hub import Hub
from ltxops.models.limits import Limits
from ltxops.models.part import PartFile
from ltxops.models.plan import Wanted
from ltxops.models.progress import Display
from ltxops.models.proof import Digest
from ltxops.models.transfer import Worker
from ltxops.units import format_bytes

_TICK_SECONDS = 0.1
#: How long a rate is measured, from when all connections bring bytes or that became unlikely.
_MEASURE_SECONDS = 0.3
_FIRST_BYTES_SECONDS = 1.5
#: Of the time of all processors: with this much used for what arrives, one more connection brings nothing.
_BUSY = 0.75
_PROCESSORS = len(os.sched_getaffinity(0))
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Fetch:
    """One run over `files`, in their order. `part_of` names where a file arrives, `place` takes it proven.

    `place` is called from several threads, with the part synced to disk, and must take the part away.
    """

    def __init__(
        self,
        hub: Hub,
        files: list[Wanted],
        limits: Limits,
        show: Display,
        *,
        part_of: Callable[[Wanted], Path],
        place: Callable[[Wanted, Path, Digest, str], None],
    ) -> None:
        self._show = show
        self._limits = limits
        self._part_of = part_of
        self._place = place
        lock = threading.Lock()
        arrivals = [Arrival(item, hub.chain, threading.Condition(lock)) for item in files]
        self._board = Board(arrivals, limits.connections, lock)
        self._lines: list[Lines] = []
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []
        self._shown_guard = threading.Lock()
        self._shown: dict[Arrival, int] = {}

    @property
    def arrived(self) -> int:
        """Bytes that came over the network, those left out that came a second time."""
        return self._board.arrived

    def run(self) -> None:
        """Bring all files. What is wrong with one file stops only that one; anything else stops the run.

        Raises the first error once all threads have ended; files that were finished stay.
        """
        board = self._board
        meter = _Meter(board)
        try:
            while board.unfinished():
                self._open_files()
                self._start_workers()
                with board.lock:
                    board.done.wait(_TICK_SECONDS)
                meter.tick(time.monotonic())
                self._show_progress()
        finally:
            board.stop()
            for lines in self._lines:
                lines.hang_up()
            for thread in self._threads:
                thread.join()
            self._show_progress()
        self._raise_failures()

    def _open_files(self) -> None:
        while (arrival := self._board.next_to_open()) is not None:
            self._start(self._bring, arrival)

    def _start_workers(self) -> None:
        for _ in range(self._board.missing_workers()):
            lines = Lines(self._limits.stall_seconds)
            self._lines.append(lines)
            self._start(Worker(self._board, lines).run)

    def _start(self, call: Callable[..., None], *arguments: object) -> None:
        def guarded() -> None:
            try:
                call(*arguments)
            except BaseException as error:  # noqa: BLE001
                self._fail(error)

        thread = threading.Thread(target=guarded, name="fetch")
        self._threads.append(thread)
        thread.start()

    def _bring(self, arrival: Arrival) -> None:
        """Take one file from its opening to its place."""
        item = arrival.item
        path = self._part_of(item)
        try:
            digest = self._receive(arrival, path)
            self._place(item, path, digest, arrival.hubs[0].url)
            self._show.finish(item.dest, item.file.size)
        except IntegrityError as error:
            parts.remove(path)
            self._fail(error)
        except OSError as error:
            self._fail(_explained(error, item, path))
        except Exception as error:  # noqa: BLE001
            self._fail(error)
        finally:
            self._board.leave(arrival)

    def _receive(self, arrival: Arrival, path: Path) -> Digest:
        """Return the digest of a file that has arrived, is proven and synced to disk."""
        part = PartFile(path, arrival.item.file)
        try:
            here = part.spans.total
            self._show.start(arrival.item.dest, arrival.size, here)
            with self._shown_guard:
                self._shown[arrival] = here
            self._board.opened(arrival, part)
            digest = follow(self._board, arrival, part)
            part.sync()
            return digest
        finally:
            self._board.close(arrival)
            self._show_progress()
            with self._shown_guard:
                self._shown.pop(arrival, None)
            part.close()

    def _fail(self, error: BaseException) -> None:
        """Note what went wrong. A bad file or a closed gate concerns one file; anything else, all of them."""
        if isinstance(error, Stopped):
            return
        self._failures.append(error)
        if not isinstance(error, IntegrityError | AccessDenied | BadInput):
            self._board.stop()

    def _raise_failures(self) -> None:
        if not self._failures:
            return
        first = next((error for error in self._failures if not isinstance(error, LtxopsError)), None)
        if first is not None:
            raise first
        error = self._failures[0]
        others = f" ({len(self._failures) - 1} more files failed)" if len(self._failures) > 1 else ""
        raise type(error)(f"{error}{others}") from error

    def _show_progress(self) -> None:
        with self._shown_guard:
            for arrival, shown in self._shown.items():
                now = arrival.spans.total
                if now != shown:
                    self._show.advance(arrival.item.dest, now - shown)
                    self._shown[arrival] = now


class _Meter:
    """Measures what the connections bring and lets the board's pace decide how many there should be."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._changed = time.monotonic()
        #: When measuring began, the bytes that had arrived then, and the processor time used.
        self._from: tuple[float, int, float] | None = None

    def tick(self, now: float) -> None:
        """Look at the board; decide when enough has been measured."""
        board = self._board
        with board.lock:
            if self._from is None:
                # New connections need a while before they show what they bring.
                if board.served() >= board.pace.connections or now - self._changed >= _FIRST_BYTES_SECONDS:
                    self._from = (now, board.arrived, time.process_time())
                return
            start, arrived, processor = self._from
            if now - start < _MEASURE_SECONDS or not board.unclaimed():
                return
            busy = time.process_time() - processor > _BUSY * _PROCESSORS * (now - start)
            before = board.pace.connections
            after = board.pace.decide((board.arrived - arrived) / (now - start), busy=busy)
            self._from = (now, board.arrived, time.process_time()) if after == before else None
            self._changed = now


def _explained(error: OSError, item: Wanted, path: Path) -> Exception:
    if error.errno not in _DISK_FULL:
        return error
    full = DiskFull(
        f"the disk of {path.parent} filled up while {item.dest} arrived ({format_bytes(item.file.size)}); "
        "free some space and run again: finished files are intact"
    )
    full.__cause__ = error
    return full
