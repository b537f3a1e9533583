"""Processes found by what their command lines name, so that nothing depends on who started them."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PATIENCE_SECONDS = 60.0


def naming(fits: Callable[[str], bool]) -> set[int]:
    """Return the processes of this machine of which an argument fits; not the one that asks."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if any(fits(word) for word in words) and int(process.name) != os.getpid():
                found.add(int(process.name))
    return found


def end(fits: Callable[[str], bool]) -> None:
    """Kill them, and return when they are gone; raises RuntimeError when they are not in a minute."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while pids := naming(fits):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > give_up:
            raise RuntimeError(f"processes {sorted(pids)} were killed and are still there")
        time.sleep(0.02)
