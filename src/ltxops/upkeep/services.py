"""Are the programs of this host running and well: once (`status`), or until they are (`wait`)."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ltxops.errors import CheckFailed
from ltxops.upkeep.health import Answer, ask, tail
from ltxops.upkeep.host import Host, Program
from ltxops.upkeep.supervisor import ABSENT, NotRunning, Process, processes

TAIL_LINES = 15
POLL_SECONDS = 0.5
#: A program is ready when it was well twice, this far apart, in one and the same process.
CONFIRM_SECONDS = 1.0
#: One that has run for so long is ready when it is well once.
SETTLED_SECONDS = 15
#: A program that ended is given this long to be started again by supervisord.
EXITED_SECONDS = 3.0
#: So many starts of one program while waiting are a crash loop.
CRASH_LOOP_STARTS = 4
#: How long supervisord itself may be away (it may just be starting).
SUPERVISOR_SECONDS = 5.0


@dataclass(frozen=True)
class Status:
    """One program at one moment."""

    program: Program
    process: Process
    health: Answer

    @property
    def ok(self) -> bool:
        """Running and well."""
        return self.process.state == "RUNNING" and self.health.ok

    def complaint(self) -> str:
        """Say what is wrong in a few words, such as `comfyui is FATAL (spawn error)`."""
        if self.process.state != "RUNNING":
            reason = f" ({self.process.spawn_error})" if self.process.spawn_error else ""
            return f"{self.program.name} is {self.process.state}{reason}"
        url = self.program.health.url if self.program.health else ""
        return f"{self.program.name} is RUNNING but not healthy ({url}: {self.health.detail})"

    def to_json(self) -> dict[str, Any]:
        """Return this program's entry in `--json`."""
        return {
            "name": self.program.name,
            "ok": self.ok,
            "state": self.process.state,
            "pid": self.process.pid or None,
            "uptime_seconds": self.process.uptime_seconds,
            "address": self.program.address,
            "healthy": self.health.ok,
            "health": self.health.detail,
            "log": self.program.log,
        }


@dataclass(frozen=True)
class Outcome:
    """What `wait` ended with; without `failure` everything is ready."""

    statuses: list[Status]
    failure: str = ""
    program: Program | None = None
    log_tail: list[str] = field(default_factory=list)


def look(host: Host) -> list[Status]:
    """Ask supervisord, then each running program, all at once. Raises CheckFailed if supervisord is away."""
    known = processes(host.socket, host.scope)

    def one(program: Program) -> Status:
        process = known.get(program.name, ABSENT)
        running = process.state == "RUNNING"
        return Status(program, process, ask(program.health) if running else Answer(False, "not asked"))

    with ThreadPoolExecutor(max_workers=len(host.programs)) as pool:
        return list(pool.map(one, host.programs))


@dataclass
class Watch:
    """What was seen of one program since `wait` began. Decides; asks nobody."""

    well_since: float | None = None
    settled: bool = False
    well_pid: int = 0
    ended_since: float | None = None
    starts: set[int] = field(default_factory=set)

    def see(self, status: Status, now: float) -> None:
        """Take in one look at the program at `now` (monotonic seconds)."""
        process = status.process
        if process.started:
            self.starts.add(process.started)
        if not status.ok:
            self.well_since = None
        elif self.well_since is None or self.well_pid != process.pid:
            self.well_since, self.well_pid = now, process.pid
        self.settled = status.ok and process.uptime_seconds >= SETTLED_SECONDS
        if process.state != "EXITED":
            self.ended_since = None
        elif self.ended_since is None:
            self.ended_since = now

    def ready(self, now: float) -> bool:
        """Tell whether it is well and has run for long, or was well twice in one process, with a pause."""
        return self.settled or (self.well_since is not None and now - self.well_since >= CONFIRM_SECONDS)

    def hopeless(self, status: Status, now: float) -> str:
        """Return why waiting longer is of no use, or an empty text."""
        name, process = status.program.name, status.process
        if process.state == "FATAL":
            return f"{status.complaint()}: supervisord gave up starting it"
        if self.ended_since is not None and now - self.ended_since >= EXITED_SECONDS:
            return f"{name} has EXITED with status {process.exit_status} and is not started again"
        if len(self.starts) >= CRASH_LOOP_STARTS:
            return f"{name} keeps crashing: it was started {len(self.starts)} times while this command waited"
        return ""


def wait(host: Host, timeout_seconds: float, say: Callable[[str], None]) -> Outcome:
    """Wait until every program is ready, one cannot become ready any more, or the time is over.

    `say` gets a line whenever a program's condition changes. Raises CheckFailed if supervisord is away for
    more than a few seconds.
    """
    watches = {program.name: Watch() for program in host.programs}
    said: dict[str, str] = {}
    deadline = time.monotonic() + timeout_seconds
    seen_supervisor = time.monotonic()
    statuses: list[Status] = []
    while True:
        try:
            statuses = look(host)
            seen_supervisor = time.monotonic()
        except NotRunning:
            patience = min(seen_supervisor + SUPERVISOR_SECONDS, deadline)
            if time.monotonic() >= patience:
                raise
            time.sleep(POLL_SECONDS)
            continue
        now = time.monotonic()
        for status in statuses:
            name = status.program.name
            watches[name].see(status, now)
            line = f"{name}: {status.process.state}, health {status.health.detail}"
            if said.get(name) != line:
                said[name] = line
                say(line)
        for status in statuses:
            if reason := watches[status.program.name].hopeless(status, now):
                return _failed(statuses, status.program, reason)
        if all(watch.ready(now) for watch in watches.values()):
            return Outcome(statuses)
        confirming = all(status.ok for status in statuses) and now < deadline + 2 * CONFIRM_SECONDS
        if now >= deadline and not confirming:
            return _timed_out(statuses, watches, now, timeout_seconds)
        time.sleep(POLL_SECONDS if confirming else min(POLL_SECONDS, deadline - now))


def _timed_out(
    statuses: list[Status], watches: dict[str, Watch], now: float, timeout_seconds: float
) -> Outcome:
    late = [status for status in statuses if not watches[status.program.name].ready(now)]
    # One that is well now but not yet for long enough is a poorer explanation than one that is not well.
    worst = next((status for status in late if not status.ok), late[0])
    what = "; ".join(status.complaint() for status in late if not status.ok)
    what = what or f"{worst.program.name} was well only for a moment"
    return _failed(statuses, worst.program, f"not ready after {timeout_seconds:g} s: {what}")


def _failed(statuses: list[Status], program: Program, reason: str) -> Outcome:
    where = f"; see {program.log}" if program.log else ""
    return Outcome(statuses, f"{reason}{where}", program, tail(program.log, TAIL_LINES))


def complaints(statuses: list[Status]) -> CheckFailed | None:
    """Return one failure that names every program that is not running and well, or None."""
    wrong = [status for status in statuses if not status.ok]
    if not wrong:
        return None
    logs = ", ".join(dict.fromkeys(status.program.log for status in wrong if status.program.log))
    return CheckFailed("; ".join(status.complaint() for status in wrong) + (f"; see {logs}" if logs else ""))
