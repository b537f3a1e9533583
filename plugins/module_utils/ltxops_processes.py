"""Which processes of a machine are programs of ours, also after the supervisord that started them was killed.

supervisord gives every program a process group of its own and names its socket in the program's environment.
nginx writes its title over its environment, so its own pid file names its group.
Run as a script it stops them, and whatever else was started from the demo in FOLDER, and prints how many:
`ltxops_processes.py SOCKET NGINX_PIDFILE FOLDER`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
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


def started_by(supervisor_socket: str, pid: int) -> bool:
    """Say whether the supervisord with this socket has started `pid`; Debian writes /run as /var/run."""
    mark = b"SUPERVISOR_SERVER_URL=unix://"
    sockets = [entry[len(mark) :] for entry in environment_of(pid) if entry.startswith(mark)]
    return any(os.path.realpath(path) == os.path.realpath(supervisor_socket.encode()) for path in sockets)


def started_from(folder: str, pid: int) -> bool:
    """Say whether `pid` is a program installed in `folder`, its nginx, its hub, or left by a playbook."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    # run/tmp: Ansible's own folder, with the watcher of a download that goes on in the background.
    installed = any(word.startswith((f"{folder}/home/", f"{folder}/run/tmp/")) for word in words[:2])
    gateway = words[0].startswith(f"nginx: master process nginx -p {folder}/")
    hub = "embedded" in words and f"{folder}/hub" in words
    return installed or gateway or hub


def ours(supervisor_socket: str, nginx_pidfile: str, folder: str | None = None) -> set[int]:
    """Return the pids of every program that the supervisord with this socket has started.

    With `folder`, of whatever works in that folder too.
    """
    nginx_group = pid_in(nginx_pidfile)
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    seen = {pid: found for pid in pids if (found := group_and_name(pid)) is not None}
    groups = {group for pid, (group, _) in seen.items() if started_by(supervisor_socket, pid)}
    return {
        pid
        for pid, (group, name) in seen.items()
        if group in groups
        or (group == nginx_group and name == "nginx")
        or (folder is not None and started_from(folder, pid))
    }


def outlasted(supervisor_socket: str, patience_seconds: float) -> bool:
    """Wait until nobody listens on this socket; say whether somebody still does when patience ends.

    A supervisord that is told to shut down refuses every call at once, and holds its socket until its
    programs have stopped: one started meanwhile gives up.
    """
    deadline = time.monotonic() + patience_seconds
    while listened_to(supervisor_socket):
        if time.monotonic() > deadline:
            return True
        time.sleep(0.1)
    return False


#: What supervisord is asked (http://supervisord.org/api.html): one that is stopping answers with a fault.
QUESTION = b"<methodCall><methodName>supervisor.getPID</methodName></methodCall>"
ANSWER_SECONDS = 10.0


def answers(path: str) -> bool:
    """Say whether the supervisord on the Unix socket `path` takes calls; one that is stopping does not."""
    request = b"POST /RPC2 HTTP/1.0\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n" % len(QUESTION)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_SECONDS)
        try:
            connection.connect(path)
            connection.sendall(request + QUESTION)
            reply = b"".join(iter(lambda: connection.recv(4096), b""))
        except OSError:
            return False
    return b"<methodResponse>" in reply and b"<fault>" not in reply


def listened_to(path: str) -> bool:
    """Say whether somebody accepts connections on the Unix socket `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def stop(
    supervisor_socket: str, nginx_pidfile: str, folder: str | None = None, patience_seconds: float = 25.0
) -> list[int]:
    """Ask every program of ours to end, end by force what has not done so in time, and return their pids."""
    return end(lambda: ours(supervisor_socket, nginx_pidfile, folder), patience_seconds)


def running_from(folders: list[str], nginx_pidfile: str) -> set[int]:
    """Return the pids of programs that lie in one of these folders, and of the gateway's nginx.

    Who has started this process is left out: a playbook can run from a virtual environment of ours.
    """
    nginx_group, starters = pid_in(nginx_pidfile), ancestors(os.getpid())
    found = set()
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        inside = any(word.startswith(f"{folder}/") for word in words[:2] for folder in folders)
        if pid not in starters and (inside or group_and_name(pid) == (nginx_group, "nginx")):
            found.add(pid)
    return found


def ancestors(pid: int) -> set[int]:
    """Return `pid`, who has started it, who has started that, and so on."""
    found = {pid}
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError, IndexError):
            break
        found.add(pid)
    return found


def end(find: Callable[[], set[int]], patience_seconds: float = 25.0) -> list[int]:
    """Ask every process that `find` returns to end, end by force what has not done so; return their pids."""
    stopped = sorted(find())
    deadline = time.monotonic() + patience_seconds
    asked: set[int] = set()
    while left := find():
        late = time.monotonic() > deadline
        for pid in left if late else left - asked:
            try:
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
            except ProcessLookupError:
                continue
        asked |= left
        time.sleep(0.1)
    return stopped


if __name__ == "__main__":
    supervisor, nginx, demo = sys.argv[1:]
    print(len(stop(supervisor, nginx, demo)))
