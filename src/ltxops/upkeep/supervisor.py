"""Ask supervisord what runs: its XML-RPC interface over the Unix socket (http://supervisord.org/api.html).

Spoken directly, because the host's own Python may not have supervisor's package and the text of supervisorctl
is made for people.
"""

import errno
import http.client
import socket
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from ltxops.errors import CheckFailed

_ANSWER_SECONDS = 5.0
#: Faults of supervisord that mean "it is so already" (supervisor.xmlrpc.Faults).
_ALREADY_STARTED, _NOT_RUNNING = 60, 70
_STILL_RUNNING, _ALREADY_ADDED, _BAD_NAME = 91, 90, 10


class NotRunning(CheckFailed):
    """supervisord does not answer: there is no socket, or nobody listens on it."""


@dataclass(frozen=True)
class Process:
    """A program as supervisord sees it.

    `pid` is 0 unless it runs; `started` is in seconds since the epoch, 0 is never. `state` is one of
    supervisord's (STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL, UNKNOWN), or ABSENT for a
    program that supervisord does not know.
    """

    state: str
    pid: int
    started: int
    uptime_seconds: int
    spawn_error: str
    exit_status: int


ABSENT = Process("ABSENT", 0, 0, 0, "", 0)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_ANSWER_SECONDS)
        self.sock.connect(str(self._path))


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: tuple[str, dict[str, str]] | str) -> http.client.HTTPConnection:
        connection = _UnixConnection(self._path)
        self._connection = (host, connection)  # what the base class closes
        return connection


def processes(path: Path, scope: str) -> dict[str, Process]:
    """Return every program that supervisord on the socket `path` knows, by name and by `group:name`.

    Raises NotRunning where nobody listens, CheckFailed where the answer is of no use. `scope` (host or user)
    only chooses the advice in the message.
    """
    with _asking(path, scope) as supervisor:
        answer: Any = supervisor.getAllProcessInfo()
    return by_name(answer)


def stop(path: Path, scope: str, name: str) -> None:
    """Tell supervisord to stop a program, and do not wait. One that stands still already is left alone.

    Raises what `processes` raises, and CheckFailed where supervisord refuses.
    """
    with _asking(path, scope) as supervisor, _fault_means(name, "stop", _NOT_RUNNING):
        supervisor.stopProcess(name, False)


def start(path: Path, scope: str, name: str) -> None:
    """Tell supervisord to start a program, and do not wait. One that runs already is left alone.

    Raises what `processes` raises, and CheckFailed where supervisord refuses, as with a missing executable.
    """
    with _asking(path, scope) as supervisor, _fault_means(name, "start", _ALREADY_STARTED):
        supervisor.startProcess(name, False)


def reread(path: Path, scope: str) -> tuple[list[str], list[str], list[str]]:
    """Have supervisord read its configuration; return the programs that are new, changed and gone in it.

    Nothing is stopped or started by that. Raises what `processes` raises, and CheckFailed with supervisord's
    own words where the configuration is broken: the running programs go on.
    """
    with _asking(path, scope) as supervisor:
        try:
            answer: Any = supervisor.reloadConfig()
        except xmlrpc.client.Fault as fault:
            raise CheckFailed(
                f"supervisord refuses its new configuration ({fault.faultString}), and what ran goes on"
            ) from None
    new, changed, gone = answer[0]
    return new, changed, gone


def add(path: Path, scope: str, name: str) -> None:
    """Have supervisord run a program of its configuration that it does not run yet."""
    with _asking(path, scope) as supervisor, _fault_means(name, "add", _ALREADY_ADDED):
        supervisor.addProcessGroup(name)


def dropped(path: Path, scope: str, name: str) -> bool:
    """Have supervisord forget a program; say whether it has: it refuses until the program has stopped."""
    with _asking(path, scope) as supervisor:
        try:
            supervisor.removeProcessGroup(name)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == _STILL_RUNNING:
                return False
            if fault.faultCode != _BAD_NAME:
                raise
    return True


@contextmanager
def _fault_means(name: str, verb: str, already: int) -> Iterator[None]:
    try:
        yield
    except xmlrpc.client.Fault as fault:
        if fault.faultCode != already:
            raise CheckFailed(
                f"supervisord refuses to {verb} {name} ({fault.faultString}): provision the host again"
            ) from None


@contextmanager
def _asking(path: Path, scope: str) -> Iterator[Any]:
    """Give supervisord's interface, and say in one sentence why it cannot be used."""
    proxy = xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=_UnixTransport(path))
    try:
        with proxy:
            yield proxy.supervisor
    except (FileNotFoundError, ConnectionRefusedError):
        what = "no socket at" if not path.exists() else "nobody listens on"
        raise NotRunning(f"supervisord is not running ({what} {path}): {_how_to_start(scope)}") from None
    except PermissionError:
        raise CheckFailed(
            f"this user may not ask supervisord ({path}): run the command as root or as the socket's owner"
        ) from None
    except OSError as error:
        if error.errno in (errno.ECONNRESET, errno.EPIPE):
            raise NotRunning(f"supervisord is stopping ({path}): {_how_to_start(scope)}") from None
        raise CheckFailed(f"supervisord does not answer on {path} ({error}): restart it") from None
    except (xmlrpc.client.Error, http.client.HTTPException, ExpatError) as error:
        raise CheckFailed(
            f"supervisord does not answer as expected on {path} ({error!r}): is it supervisord?"
        ) from None


def by_name(answer: list[dict[str, Any]]) -> dict[str, Process]:
    """Return the answer of getAllProcessInfo, each program under its name and its `group:name`."""
    found: dict[str, Process] = {}
    for info in answer:
        running = info["statename"] == "RUNNING"
        process = Process(
            state=info["statename"],
            pid=info["pid"],
            started=info["start"],
            uptime_seconds=max(0, info["now"] - info["start"]) if running else 0,
            spawn_error=info["spawnerr"],
            exit_status=info["exitstatus"],
        )
        found[f"{info['group']}:{info['name']}"] = process
        found.setdefault(info["name"], process)
    return found


def _how_to_start(scope: str) -> str:
    if scope == "host":
        return "start it with `systemctl start supervisor`, or `supervisord` where there is no systemd"
    return "start it with the command that provisioned this host"
