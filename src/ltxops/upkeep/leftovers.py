"""Processes that outlived the program that started them, such as a worker that ignores SIGTERM.

supervisord stops a program's process group, but sends SIGKILL only while the program itself is still there.
It gives each program a group within its own session, and names its socket in the environment; who has started
a session of its own, as daemons do, is left alone.
"""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_MARK = b"SUPERVISOR_SERVER_URL=unix://"
_NAME = b"SUPERVISOR_PROCESS_NAME="


@dataclass(frozen=True)
class Seen:
    """One process: its group, its session, and the program of ours that it belongs to, if any."""

    pid: int
    group: int
    session: int
    program: str


def judge(seen: Iterable[Seen], sessions: set[int]) -> dict[int, str]:
    """Return program by pid of each process of ours whose group has lost its leader."""
    seen = list(seen)
    alive = {it.pid for it in seen}
    return {
        it.pid: it.program for it in seen if it.program and it.session in sessions and it.group not in alive
    }


def end(socket: Path, running: Iterable[int]) -> dict[int, str]:
    """Kill what outlived its program; returns program by pid. `running` are pids of programs that run now."""
    sessions = set()
    for pid in running:
        with suppress(OSError):
            sessions.add(os.getsid(pid))
    found = judge(_survey(socket), sessions)
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def _survey(socket: Path) -> list[Seen]:
    seen = []
    for folder in Path("/proc").glob("[0-9]*"):
        # A process may end between the listing and the reading.
        with suppress(OSError):
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            program = _program_of(folder, socket)
            seen.append(Seen(int(folder.name), int(fields[2]), int(fields[3]), program))
    return seen


def _program_of(folder: Path, socket: Path) -> str:
    """Return the program of the supervisord at `socket` that a process belongs to, or an empty text."""
    try:
        environment = (folder / "environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    sockets = [entry[len(_MARK) :].decode() for entry in environment if entry.startswith(_MARK)]
    names = [entry[len(_NAME) :].decode() for entry in environment if entry.startswith(_NAME)]
    # Debian writes /run as /var/run.
    ours = any(os.path.realpath(it) == os.path.realpath(socket) for it in sockets)
    return names[0] if ours and names else ""
