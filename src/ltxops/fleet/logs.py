"""Follow a program's log on several hosts at once; a lost connection neither loses a line nor repeats one."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ltxops.errors import CheckFailed, LtxopsError, NetworkError
from ltxops.fleet.connect import Access
from ltxops.fleet.follow import HEARTBEAT_SECONDS
from ltxops.fleet.inventory import Target
from ltxops.fleet.machine import LOST, Stream, explain, reach
from ltxops.fleet.retry import Retry
from ltxops.upkeep.health import clean

#: A host that sends not even a heartbeat for this long is taken for lost.
SILENCE_SECONDS = 6 * HEARTBEAT_SECONDS
_WAITING_LINES = 1000
_STOP_CHECK_SECONDS = 0.2


@dataclass(frozen=True)
class Request:
    """Which log, how many of its last lines, whether to go on, and how long a lost host is tried again."""

    program: str
    lines: int
    forever: bool
    patience_seconds: float


@dataclass(frozen=True)
class Line:
    """A line of the host's log; or, with `remark`, one about it."""

    host: str
    text: str
    remark: bool = False


@dataclass(frozen=True)
class Ended:
    """Nothing more comes from the host; with `failure` because of that."""

    host: str
    failure: LtxopsError | None = None


class Records:
    """Reads what `ltxops.fleet.follow` writes. Lines are given out when they are known to be whole."""

    def __init__(self) -> None:
        self.position = ""
        self._rest = b""
        self._waiting: list[tuple[str, bool]] = []

    def feed(self, data: bytes) -> Iterator[tuple[str, bool]]:
        """Yield each line that is complete now, and whether it is a remark."""
        *records, self._rest = (self._rest + data).split(b"\n")
        for record in records:
            kind, text = record[:1], record[1:].decode(errors="replace")
            if kind == b"@":
                self.position = text or self.position
                whole, self._waiting = self._waiting, []
                yield from whole
            elif kind in (b"=", b"!"):
                self._waiting.append((clean(text), kind == b"!"))

    def drop(self) -> None:
        """Forget what was not complete when the connection was lost: it is sent again."""
        self._rest, self._waiting = b"", []


class Follower(threading.Thread):
    """Follows one host, and puts its lines and its end into a queue."""

    def __init__(
        self, target: Target, access: Access, request: Request, put: Callable[[Line | Ended], None]
    ) -> None:
        super().__init__(name=f"log of {target.name}", daemon=True)
        self._target = target
        self._access = access
        self._request = request
        self._put = put
        self._stopped = threading.Event()
        self._records = Records()
        self._retry = Retry(request.patience_seconds)

    def run(self) -> None:
        """Follow until the log ends, the host is lost for good, or `stop` is called."""
        # Whatever happens, who waits for this host is told that it has ended.
        ended = Ended(self._target.name, CheckFailed(f"{self._target.name}: following it ended unexpectedly"))
        try:
            while not self._stopped.is_set() and (lost := self._once()) is not None:
                self._records.drop()
                wait = self._retry.lost()
                if wait is None:
                    raise NetworkError(f"{lost}; given up after {self._request.patience_seconds:g} s")
                self._remark(f"{lost}; trying again in {wait:.0f} s")
                self._stopped.wait(wait)
            ended = Ended(self._target.name)
        except LtxopsError as error:
            ended = Ended(self._target.name, error)
        finally:
            self._put(ended)

    def stop(self) -> None:
        """Make it end soon."""
        self._stopped.set()

    def _once(self) -> NetworkError | None:
        """Follow over one connection. Returns how it was lost, or None at the end of the log."""
        resumed = bool(self._records.position)
        try:
            with reach(self._target, self._access) as machine:
                stream = machine.stream(self._command())
                try:
                    return self._read(stream, resumed)
                finally:
                    stream.close()
        except NetworkError as error:
            if not resumed:
                raise  # it was never there: a wrong address is not waited for
            return error

    def _read(self, stream: Stream, resumed: bool) -> NetworkError | None:
        name = self._target.name
        silence = 0.0
        while not self._stopped.is_set():
            try:
                data = stream.read(_STOP_CHECK_SECONDS)
            except TimeoutError:
                silence += _STOP_CHECK_SECONDS
                if silence >= SILENCE_SECONDS:
                    return NetworkError(f"{name}: nothing was heard for {silence:.0f} s")
                continue
            except OSError as error:
                return NetworkError(f"{name}: the connection was lost ({error})")
            if not data:
                return self._end(stream)
            silence = 0.0
            self._retry.connected()
            if resumed:
                self._remark("connected again, going on where it was lost")
                resumed = False
            for text, remark in self._records.feed(data):
                self._put(Line(name, text, remark))
        return None

    def _end(self, stream: Stream) -> NetworkError | None:
        done = stream.end()
        if done.code == LOST:
            return NetworkError(f"{self._target.name}: the connection was lost")
        if done.code != 0:
            raise explain(self._target, done)
        return None

    def _command(self) -> list[str]:
        target, request = self._target, self._request
        command = [
            f"{target.home}/venv/bin/python",
            "-m",
            "ltxops.fleet.follow",
            "--config",
            target.host_file,
        ]
        command += ["--program", request.program, "--lines", str(request.lines)]
        if self._records.position:
            command += ["--after", self._records.position]
        return [*command, "--forever"] if request.forever else command

    def _remark(self, text: str) -> None:
        self._put(Line(self._target.name, text, remark=True))


def follow(
    targets: Sequence[Target],
    access: Access,
    request: Request,
    show: Callable[[Line], None],
    idle: Callable[[], None],
) -> list[LtxopsError]:
    """Show the log on all targets until each has ended; returns what went wrong, one entry a host.

    `idle` is called when no line waits to be shown. A KeyboardInterrupt ends all and passes through.
    """
    waiting: queue.Queue[Line | Ended] = queue.Queue(_WAITING_LINES)
    followers = [Follower(target, access, request, waiting.put) for target in targets]
    failures: list[LtxopsError] = []
    left = len(followers)
    try:
        for follower in followers:
            follower.start()
        while left:
            if waiting.empty():
                idle()
            event = waiting.get()
            if isinstance(event, Line):
                show(event)
                continue
            left -= 1
            if event.failure is not None:
                failures.append(event.failure)
                show(Line(event.host, _without_name(event), remark=True))
    finally:
        for follower in followers:
            follower.stop()
    return failures


def _without_name(event: Ended) -> str:
    return str(event.failure).removeprefix(f"{event.host}: ")
