"""Which processes of a machine are programs of ours, also after the supervisord that started them was killed.

supervisord gives every program a process group of its own and names its socket in the program's environment.
nginx writes its title over its environment, so its own pid file names its group.
Run as a script it stops them: `ltxops_processes.py SOCKET NGINX_PIDFILE`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def group_and_name(pid: int) -> tuple[int, str] | None:
    """Return (process group, command name) of `pid`, or None when it is gone."""
    try:
        head, tail = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)
        return int(tail.split()[2]), head.split("(", 1)[1]
    except (OSError, ValueError, IndexError):
        return None


def environment_of(pid: int) -> list[bytes]:
    """Return the environment `pid` was started with; empty when it may not be read."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def pid_in(pidfile: str) -> int | None:
    """Return the number in `pidfile`, or None."""
    try:
        return int(Path(pidfile).read_text())
    except (OSError, ValueError):
        return None


def ours(supervisor_socket: str, nginx_pidfile: str) -> set[int]:
    """Return the pids of every program that the supervisord with this socket has started."""
    mark = f"SUPERVISOR_SERVER_URL=unix://{supervisor_socket}".encode()
    nginx_group = pid_in(nginx_pidfile)
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    seen = {pid: found for pid in pids if (found := group_and_name(pid)) is not None}
    groups = {group for pid, (group, _) in seen.items() if mark in environment_of(pid)}
    return {
        pid
        for pid, (group, name) in seen.items()
        if group in groups or (group == nginx_group and name == "nginx")
    }


def stop(supervisor_socket: str, nginx_pidfile: str, patience_seconds: float = 10.0) -> list[int]:
    """Ask every program of ours to end, end by force what has not done so in time, and return their pids."""
    stopped = sorted(ours(supervisor_socket, nginx_pidfile))
    deadline = time.monotonic() + patience_seconds
    number = signal.SIGTERM
    while left := ours(supervisor_socket, nginx_pidfile):
        for pid in left:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        time.sleep(0.2)
        if time.monotonic() > deadline:
            number = signal.SIGKILL
    return stopped


if __name__ == "__main__":
    stop(sys.argv[1], sys.argv[2])
