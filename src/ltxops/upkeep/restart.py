"""Restart one program and wait until it is well again."""

import time
from collections.abc import Callable
from dataclasses import replace

from ltxops.errors import BadInput, CheckFailed
from ltxops.upkeep.host import Host, Program
from ltxops.upkeep.services import POLL_SECONDS, Outcome, wait
from ltxops.upkeep.supervisor import Process, processes, start, stop

#: States in which a program has no process (http://supervisord.org/subprocess.html#process-states).
_STANDS_STILL = ("STOPPED", "EXITED", "FATAL", "UNKNOWN")


def named(host: Host, name: str) -> Program:
    """Return the program called `name`. Raises BadInput that lists the ones there are."""
    for program in host.programs:
        if program.name == name:
            return program
    known = ", ".join(program.name for program in host.programs)
    raise BadInput(f"there is no program {name!r} on {host.name}: choose one of {known}")


def restart(
    host: Host, name: str, timeout_seconds: float, say: Callable[[str], None]
) -> tuple[Process, Outcome]:
    """Stop the program and its process group, start it, wait until it is well; returns also what was before.

    Raises BadInput for an unknown program, CheckFailed if supervisord is away or does not know it, or if the
    program has not stopped when the time is over.
    """
    program = named(host, name)
    deadline = time.monotonic() + timeout_seconds
    before = _process(host, name)
    say(f"{name}: {before.state}, stopping")
    stop(host.socket, host.scope, name)
    while (now := _process(host, name)).state not in _STANDS_STILL:
        if time.monotonic() >= deadline:
            raise CheckFailed(
                f"{name} has not stopped after {timeout_seconds:g} s (it is {now.state}): see {program.log}"
            )
        time.sleep(POLL_SECONDS / 5)
    start(host.socket, host.scope, name)
    left = max(deadline - time.monotonic(), POLL_SECONDS)
    return before, wait(replace(host, programs=(program,)), left, say)


def _process(host: Host, name: str) -> Process:
    found = processes(host.socket, host.scope).get(name)
    if found is None:
        raise CheckFailed(f"supervisord does not know {name}: provision the host again")
    return found
