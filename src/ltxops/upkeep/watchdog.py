"""The watchdog: restarts a program that runs but answers nobody, or whose GPU is lost to it, and notes why.

supervisord sees only whether a process is there. This asks each program over HTTP. Any answer counts, for a
program that answers "not now" is not hung; what is wrong with it is for `ltxops doctor` to say.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ltxops.errors import CheckFailed, LtxopsError
from ltxops.upkeep import faults, leftovers
from ltxops.upkeep.faults import Fault
from ltxops.upkeep.health import ask, clean
from ltxops.upkeep.host import Host, Program
from ltxops.upkeep.janitor import stamped
from ltxops.upkeep.supervisor import ABSENT, Process, processes, start, stop

#: After a restart a program is left alone for so long: what comes back broken is a person's business.
COOL_DOWN_SECONDS = 300.0
#: How long supervisord may take to stop a program; it sends SIGKILL after its own stopwaitsecs.
STOP_SECONDS = 60.0
#: A program that ends so soon after the kernel killed something for lack of memory was what it killed.
KILL_SECONDS = 30.0
_READ_BYTES = 2**20
_STANDS_STILL = ("STOPPED", "EXITED", "FATAL", "UNKNOWN")


@dataclass(frozen=True)
class Patience:
    """How long a program may be silent, in seconds: once it has answered, and while it is starting."""

    hang_seconds: float
    start_seconds: float


@dataclass
class Watched:
    """What was seen of one program. Decides; asks nobody."""

    patience: Patience
    pid: int = 0
    has_answered: bool = False
    silent_since: float | None = None
    restarted_at: float | None = None

    def see(self, process: Process, answered: bool, now: float) -> str:
        """Take in one look at `now` (monotonic); returns what happened: restart, hang, or an empty text."""
        again = bool(process.pid and self.pid and process.pid != self.pid)
        if process.pid and process.pid != self.pid:
            self.pid, self.has_answered, self.silent_since = process.pid, False, None
        if process.state != "RUNNING":
            self.silent_since = None
        elif answered:
            self.has_answered, self.silent_since = True, None
        elif self.silent_since is None:
            self.silent_since = now
        if again:
            return "restart"
        return "hang" if self._hung(now) and self.may_restart(now) else ""

    def may_restart(self, now: float) -> bool:
        """Tell whether the last restart by the watchdog is long enough ago."""
        return self.restarted_at is None or now - self.restarted_at >= COOL_DOWN_SECONDS

    def restarting(self, now: float) -> None:
        """Note that the watchdog restarts it: its next pid is no surprise."""
        self.pid, self.silent_since, self.restarted_at = 0, None, now

    def _hung(self, now: float) -> bool:
        allowed = self.patience.hang_seconds if self.has_answered else self.patience.start_seconds
        return self.silent_since is not None and now - self.silent_since >= allowed


@dataclass
class Follower:
    """The new lines of a log, from the moment it was opened, across rotations."""

    path: Path
    inode: int = 0
    offset: int = 0
    _rest: bytes = field(default=b"", repr=False)

    def lines(self) -> list[str]:
        """Return what was written since the last call; nothing at the first one, or without a log."""
        try:
            with self.path.open("rb") as file:
                size, inode = file.seek(0, 2), self.path.stat().st_ino
                if self.inode == 0:
                    self.offset = size
                elif inode != self.inode or size < self.offset:
                    self.offset, self._rest = 0, b""
                self.inode = inode
                # Of a flood, the end is enough.
                file.seek(max(self.offset, size - _READ_BYTES))
                content = self._rest + file.read(_READ_BYTES)
                self.offset = size
        except OSError:
            return []
        *whole, self._rest = content.split(b"\n")
        return [clean(line.decode(errors="replace")) for line in whole]


@dataclass
class Kills:
    """Whether the kernel has just killed something for lack of memory; `count` is its own count."""

    count: int
    at: float | None = None

    def see(self, count: int, now: float) -> None:
        """Take in the kernel's count at `now` (monotonic)."""
        if count > self.count:
            self.at = now
        self.count = count

    def recent(self, now: float) -> bool:
        """Tell whether that was a moment ago."""
        return self.at is not None and now - self.at <= KILL_SECONDS


def kernel_kills() -> int:
    """Return the kernel's count, of the whole machine; containers see it, too."""
    try:
        return faults.kills_for_memory(Path("/proc/vmstat").read_text())
    except OSError:
        return 0


class Watchdog:
    """Looks at every program again and again, acts, and keeps the record in `record_file`."""

    def __init__(self, host: Host, patience: Patience, record_file: Path, say: Callable[[str], None]) -> None:
        self._host = host
        self._say = say
        self._file = record_file
        self._record = faults.load(record_file)
        self._watched = {program.name: Watched(patience) for program in host.programs}
        self._followers = {
            program.name: Follower(Path(program.log)) for program in host.programs if program.log
        }
        self._pool = ThreadPoolExecutor(max_workers=len(host.programs))
        self._kills = Kills(kernel_kills())

    def run(self, interval_seconds: float) -> None:
        """Work until the process is ended."""
        self._say(stamped(f"watchdog started for {', '.join(self._watched)}"))
        while True:
            try:
                self.turn()
            except LtxopsError as error:
                self._say(stamped(f"watchdog: {error}"))
            time.sleep(interval_seconds)

    def turn(self) -> None:
        """Look once at every program. Raises CheckFailed while supervisord is away."""
        known = processes(self._host.socket, self._host.scope)
        self._kills.see(kernel_kills(), time.monotonic())

        def answers(program: Program) -> bool:
            running = known.get(program.name, ABSENT).state == "RUNNING"
            return not running or program.health is None or ask(program.health).status is not None

        for program, answered in zip(
            self._host.programs, self._pool.map(answers, self._host.programs), strict=True
        ):
            self._judge(program, known.get(program.name, ABSENT), answered)
        left = leftovers.end(self._host.socket, [process.pid for process in known.values() if process.pid])
        for pid, name in left.items():
            self._say(stamped(f"pid {pid} had outlived {name}, and was killed"))
        faults.save(self._file, self._record)

    def _judge(self, program: Program, process: Process, answered: bool) -> None:
        watched, now = self._watched[program.name], time.monotonic()
        lost_gpu = False
        for kind, line in self._complaints_in_log(program):
            self._note(program, kind, line)
            lost_gpu = lost_gpu or kind == "cuda"
        happened = watched.see(process, answered, now)
        if happened == "restart":
            kind = "memory" if self._kills.recent(now) else "restart"
            reason = "was killed by the kernel for lack of memory" if kind == "memory" else "ended"
            self._note(program, kind, f"{reason}, and was started again, pid {process.pid}")
        elif happened == "hang":
            self._note(program, "hang", f"pid {process.pid} runs and answers nobody; restarting it")
            self._restart(program, watched)
        elif lost_gpu and process.state == "RUNNING" and watched.may_restart(now):
            self._say(stamped(f"{program.name} cannot use its GPU any more; restarting it"))
            self._restart(program, watched)

    def _complaints_in_log(self, program: Program) -> list[tuple[str, str]]:
        follower = self._followers.get(program.name)
        found = [(faults.kind_of(line), line) for line in follower.lines()] if follower else []
        # A traceback names its error in several lines; one of a kind and a turn is one fault.
        return list({kind: line for kind, line in found if kind}.items())

    def _note(self, program: Program, kind: str, detail: str) -> None:
        self._record.add(Fault(time.time(), program.name, kind, detail[:300]))
        faults.save(self._file, self._record)
        self._say(stamped(f"{program.name}: {kind}: {detail[:300]}"))

    def _restart(self, program: Program, watched: Watched) -> None:
        watched.restarting(time.monotonic())
        bounce(self._host, program.name)
        self._say(stamped(f"{program.name} was restarted"))


def bounce(host: Host, name: str) -> None:
    """Stop a program with its whole group, and start it; waits no longer. Raises CheckFailed."""
    stop(host.socket, host.scope, name)
    deadline = time.monotonic() + STOP_SECONDS
    while (state := processes(host.socket, host.scope).get(name, ABSENT).state) not in _STANDS_STILL:
        if time.monotonic() > deadline:
            raise CheckFailed(f"{name} has not stopped after {STOP_SECONDS:.0f} s (it is {state})")
        time.sleep(0.2)
    start(host.socket, host.scope, name)
