"""Make supervisord run what its configuration says now: restart what changed, start what stands still."""

import time
from collections.abc import Callable

from ltxops.errors import CheckFailed
from ltxops.upkeep.host import Host
from ltxops.upkeep.services import POLL_SECONDS, SUPERVISOR_SECONDS, Outcome, wait
from ltxops.upkeep.supervisor import NotRunning, add, dropped, processes, reread, start, stop

#: States in which supervisord leaves a program alone (http://supervisord.org/subprocess.html#process-states).
_STANDS_STILL = ("STOPPED", "EXITED", "FATAL")
#: Longer than any program of ours may take to stop (stopwaitsecs).
_STOP_SECONDS = 180.0


def apply(host: Host, timeout_seconds: float, say: Callable[[str], None]) -> tuple[list[str], Outcome]:
    """Bring the programs to the configuration and wait until they are well; return also which were touched.

    What has not changed and runs is not touched. Raises CheckFailed if supervisord is away, refuses its
    configuration, or a program does not stop.
    """
    new, changed, gone = _reread(host)
    for name in [*changed, *gone]:
        say(f"{name}: {'changed' if name in changed else 'not wanted any more'}, stopping")
        _stop(host, name)
    _drop(host, [*changed, *gone])
    for name in [*new, *changed]:
        add(host.socket, host.scope, name)
    started = [name for name in _standing_still(host) if name not in (*new, *changed)]
    for name in started:
        say(f"{name}: stands still, starting")
        try:
            start(host.socket, host.scope, name)
        except NotRunning:
            raise
        except CheckFailed as refusal:
            say(str(refusal))  # waiting for it tells why, with the end of its log
    return [*new, *changed, *gone, *started], wait(host, timeout_seconds, say)


def _reread(host: Host) -> tuple[list[str], list[str], list[str]]:
    """Have the configuration read, by a supervisord that may just be starting."""
    deadline = time.monotonic() + SUPERVISOR_SECONDS
    while True:
        try:
            return reread(host.socket, host.scope)
        except NotRunning:
            if time.monotonic() >= deadline:
                raise
            time.sleep(POLL_SECONDS / 5)


def _standing_still(host: Host) -> list[str]:
    known = processes(host.socket, host.scope)
    wanted = (program.name for program in host.programs)
    return [name for name in wanted if name in known and known[name].state in _STANDS_STILL]


def _stop(host: Host, name: str) -> None:
    if name in processes(host.socket, host.scope):
        stop(host.socket, host.scope, name)


def _drop(host: Host, names: list[str]) -> None:
    """Wait until all have stopped and are forgotten, together. Raises CheckFailed."""
    deadline = time.monotonic() + _STOP_SECONDS
    left = names
    while left := [name for name in left if not dropped(host.socket, host.scope, name)]:
        if time.monotonic() >= deadline:
            raise CheckFailed(f"{', '.join(left)} did not stop within {_STOP_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS / 5)
