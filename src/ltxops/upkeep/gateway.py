"""Hand the tokens to nginx while it runs: write its map, have it read that, and wait until it has."""

import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

from ltxops.errors import CheckFailed
from ltxops.upkeep.tokens import HOST, make, read_all, render, write_private

#: How long nginx may take to start workers with the new tokens.
RELOAD_SECONDS = 10.0
_CUT_OFF = "cut off"
_PID_LINE = re.compile(r"^pid (\S+);$", re.MULTILINE)


def apply(directory: Path) -> bool:
    """Bring nginx to the tokens in `directory`; returns whether anything changed.

    Makes the host's own token where there is none. Where a token is gone, every connection of before ends: a
    download or WebSocket may have been let in with it. Call it inside `tokens.locked`. Raises CheckFailed
    when nginx does not take the tokens.
    """
    gateway = directory / "gateway"
    if not (directory / "token").exists():
        make(directory, HOST)
    wanted = render(read_all(directory))
    conf, pending = gateway / "tokens.conf", gateway / ".tokens-pending"
    known = conf.read_text() if conf.exists() else ""
    if not pending.exists() and known == wanted:
        return False
    cut_off = lost(known, wanted) or (pending.exists() and pending.read_text() == _CUT_OFF)
    # Stays where nginx does not take the tokens, so that the next call tries again.
    pending.write_text(_CUT_OFF if cut_off else "")
    write_private(conf, wanted)
    if (master := running_master(gateway / "nginx.conf")) is not None:
        reload(master, cut_off)
    pending.unlink()
    return True


def lost(known: str, wanted: str) -> bool:
    """Tell whether nginx's map `known` lets in a token that `wanted` does not, whatever their names."""
    before, after = ({line.rpartition(" ")[0] for line in text.splitlines()} for text in (known, wanted))
    return bool(before - after)


def running_master(configuration: Path) -> int | None:
    """Return the pid of the nginx that was started with this configuration, or None while there is none."""
    try:
        found = _PID_LINE.search(configuration.read_text())
        pid = int(Path(found[1]).read_text()) if found else 0
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except (OSError, ValueError):
        return None
    return pid if name == "nginx" else None


def reload(master: int, cut_off: bool) -> None:
    """Make nginx read its configuration again. Raises CheckFailed when it keeps the old one."""
    before = children(master)
    os.kill(master, signal.SIGHUP)
    deadline = time.monotonic() + RELOAD_SECONDS
    while not children(master) - before:
        if time.monotonic() > deadline:
            raise CheckFailed(
                f"nginx (pid {master}) did not take the new tokens within {RELOAD_SECONDS:.0f} s and goes on "
                "with the old ones: look at the gateway's log"
            )
        time.sleep(0.02)
    while any(accepts(pid) for pid in before):
        time.sleep(0.02)
    # Workers of before that are left serve connections of before.
    while cut_off and (left := children(master) & before):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
        time.sleep(0.02)


def accepts(worker: int) -> bool:
    """Tell whether a worker of nginx still takes new connections; one that ends says so in its title."""
    try:
        title = Path(f"/proc/{worker}/cmdline").read_bytes()
    except OSError:
        return False
    return title.startswith(b"nginx: worker process") and b"shutting down" not in title


def children(pid: int) -> set[int]:
    """Return the pids of the direct children of `pid`."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        # A process may end between the listing and the reading.
        with suppress(OSError):
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.add(int(stat.parent.name))
    return found
