"""Run commands on a host, over SSH or, where the inventory says `ansible_connection: local`, right here."""

import os
import select
import shlex
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from types import TracebackType
from typing import Any

from invoke.exceptions import CommandTimedOut, ThreadException
from paramiko.ssh_exception import SSHException

from ltxops.errors import AccessDenied, CheckFailed, LtxopsError, NetworkError
from ltxops.fleet.connect import Access, dial, hang_up
from ltxops.fleet.inventory import Target

#: The exit code that stands for a connection that was lost before the command ended.
LOST = -1
#: Lets root be root, so that sudo need not be there.
_AS_ROOT = 'if [ "$(id -u)" = 0 ]; then exec "$@"; fi; '
_READ_BYTES = 65536


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str


class Stream(ABC):
    """A running command, whose stdout is read as it comes."""

    @abstractmethod
    def read(self, seconds: float) -> bytes:
        """Return the next bytes, none at the end. Raises TimeoutError when nothing comes for so long."""

    @abstractmethod
    def end(self) -> Finished:
        """Return how the command ended, once `read` has come to the end."""

    @abstractmethod
    def close(self) -> None:
        """End the command."""


class Machine(ABC):
    """A host on which commands can be run."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def __enter__(self) -> "Machine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def run(self, argv: Sequence[str], seconds: float) -> Finished:
        """Run a command to its end. Raises NetworkError if the connection is lost or the time is over."""

    @abstractmethod
    def stream(self, argv: Sequence[str]) -> Stream:
        """Start a command whose output is followed. Raises NetworkError if the connection is lost."""

    @abstractmethod
    def close(self) -> None:
        """End the connection."""


def reach(target: Target, access: Access) -> Machine:
    """Return the machine, connected. Raises what `dial` raises."""
    return _Local(target) if target.local else Ssh(target, access)


def as_ltxops_needs(target: Target, argv: Sequence[str]) -> list[str]:
    """Return the command so that it may ask supervisord and read the logs.

    As the inventory's `ansible_become` says; where it does not, scope host needs root and scope user nobody.
    """
    become = target.become if target.become is not None else target.scope == "host" and not target.local
    if not become:
        return list(argv)
    user = target.become_user
    # The password comes by stdin; without one sudo must not ask.
    password = ["-S", "-p", ""] if target.become_password else ["-n"]
    sudo = shlex.join(["sudo", *password, "-u", user, "--"])
    return ["sh", "-c", (_AS_ROOT if user == "root" else "") + f'exec {sudo} "$@"', "sh", *argv]


def explain(target: Target, done: Finished) -> LtxopsError:
    """Return why a command of ours on the host failed, with the exit code that it had."""
    last = next((line.strip() for line in reversed(done.err.splitlines()) if line.strip()), "")
    if done.code == LOST:
        return NetworkError(f"{target.name}: the connection was lost before the command ended")
    if done.code in (126, 127):
        return CheckFailed(f"{target.name}: ltxops cannot be run ({last}): provision the host first")
    if "No module named" in last:
        return CheckFailed(
            f"{target.name}: the ltxops there is older than this one ({last}): provision the host again"
        )
    if last.startswith("sudo:") or last.startswith("Sorry, try again"):
        return AccessDenied(
            f"{target.name}: {last}: set ansible_become_password, let the login user run commands without a "
            "password, or log in as root"
        )
    message = (
        f"{target.name}: {last.removeprefix('ltxops: ') or f'the command ended with exit code {done.code}'}"
    )
    kinds = {kind.exit_code: kind for kind in LtxopsError.__subclasses__()}
    return kinds.get(done.code, CheckFailed)(message)


class Ssh(Machine):
    """A host behind an SSH connection of Fabric's."""

    def __init__(self, target: Target, access: Access) -> None:
        super().__init__(target)
        self.connection = dial(target, access)

    def run(self, argv: Sequence[str], seconds: float) -> Finished:
        try:
            done = self.connection.run(
                shlex.join(as_ltxops_needs(self.target, argv)),
                hide=True,
                warn=True,
                echo=False,
                pty=False,
                in_stream=StringIO(_password(self.target)) if self.target.become_password else False,
                encoding="utf-8",
                timeout=seconds,
            )
        except CommandTimedOut:
            raise NetworkError(f"{self.target.name}: no answer within {seconds:g} s: try again") from None
        except (SSHException, OSError, EOFError, ThreadException) as error:
            raise NetworkError(f"{self.target.name}: the connection was lost ({error}): try again") from None
        return Finished(done.exited, done.stdout, done.stderr)

    def stream(self, argv: Sequence[str]) -> Stream:
        try:
            channel = self.connection.create_session()
            channel.exec_command(shlex.join(as_ltxops_needs(self.target, argv)))
            if self.target.become_password:
                channel.sendall(_password(self.target).encode())
        except (SSHException, OSError, EOFError) as error:
            raise NetworkError(f"{self.target.name}: the connection was lost ({error})") from None
        return _Channel(channel)

    def close(self) -> None:
        hang_up(self.connection)


class _Channel(Stream):
    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def read(self, seconds: float) -> bytes:
        self._channel.settimeout(seconds)
        data: bytes = self._channel.recv(_READ_BYTES)
        return data

    def end(self) -> Finished:
        errors = bytearray()
        while data := self._channel.recv_stderr(_READ_BYTES):
            errors += data
        # -1 where the server has not told one.
        return Finished(self._channel.recv_exit_status(), "", errors.decode(errors="replace"))

    def close(self) -> None:
        with suppress(OSError, EOFError, SSHException):  # it says goodbye, to a host that may be gone
            self._channel.close()


class _Local(Machine):
    """This machine."""

    def run(self, argv: Sequence[str], seconds: float) -> Finished:
        try:
            done = subprocess.run(
                as_ltxops_needs(self.target, argv),
                input=_password(self.target) if self.target.become_password else "",
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NetworkError(f"{self.target.name}: no answer within {seconds:g} s: try again") from None
        except OSError as error:
            return Finished(127, "", str(error))
        return Finished(done.returncode, done.stdout, done.stderr)

    def stream(self, argv: Sequence[str]) -> Stream:
        return _Pipe(self.target, as_ltxops_needs(self.target, argv))

    def close(self) -> None:
        pass


class _Pipe(Stream):
    def __init__(self, target: Target, argv: Sequence[str]) -> None:
        try:
            # Its stdin stays open: what runs there ends when that does. Ctrl-C is for us to handle.
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise explain(target, Finished(127, "", str(error))) from None
        if target.become_password and self._process.stdin:
            self._process.stdin.write(_password(target).encode())
            self._process.stdin.flush()

    def read(self, seconds: float) -> bytes:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not readable:
            raise TimeoutError
        return os.read(self._process.stdout.fileno(), _READ_BYTES)

    def end(self) -> Finished:
        assert self._process.stderr is not None
        errors = self._process.stderr.read().decode(errors="replace")
        return Finished(self._process.wait(), "", errors)

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        self._process.wait()


def _password(target: Target) -> str:
    return f"{target.become_password}\n"
