"""Which files somebody still needs at this moment: open in any process, or locked.

Three questions, because none of them sees everything. /proc lists what is open, but not in another user's
processes or another container. A write lease (fcntl(2), F_SETLEASE) is granted by the kernel only if nobody
else has the file open, and holds new openers off until it is given back, but only to the file's owner and not
on every file system. An advisory lock says so even where the other two cannot be asked.
"""

import errno
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from ltxops.upkeep.output_root import FileKey, file_key

#: One scan serves this many seconds of deleting; the lease covers the time in between.
SCAN_LASTS_SECONDS = 5.0


class Use(Enum):
    """What is known about a file."""

    FREE = "free"
    IN_USE = "in use"
    UNKNOWN = "unknown"


class OpenFiles:
    """The files that processes of this machine have open or stand in, read from /proc and kept fresh."""

    def __init__(self) -> None:
        self._keys: set[FileKey] = set()
        self._read_at = 0.0
        self.unseen_processes = 0

    def refresh(self) -> None:
        """Read /proc again."""
        self._keys, self.unseen_processes = scan_processes(Path("/proc"))
        self._read_at = time.monotonic()

    def holds(self, key: FileKey) -> bool:
        """Tell whether a process has that file or folder open."""
        if time.monotonic() - self._read_at > SCAN_LASTS_SECONDS:
            self.refresh()
        return key in self._keys


def scan_processes(proc: Path) -> tuple[set[FileKey], int]:
    """Return everything open (working folders too), and of how many processes this user may not know it."""
    keys: set[FileKey] = set()
    unseen = 0
    for process in proc.iterdir():
        if process.name.isdecimal():
            try:
                keys |= _open_in(process)
            except PermissionError:
                unseen += _has_command_line(process)
            except OSError:
                continue  # the process ended meanwhile
    return keys, unseen


def _open_in(process: Path) -> set[FileKey]:
    keys = {file_key((process / "cwd").stat())}
    with os.scandir(process / "fd") as descriptors:
        for descriptor in descriptors:
            try:
                keys.add(file_key(descriptor.stat()))
            except PermissionError:
                raise  # root without CAP_SYS_PTRACE may list them but not look: this process is unseen
            except OSError:
                continue  # closed meanwhile, or on a file system that does not answer
    return keys


def _has_command_line(process: Path) -> bool:
    """Kernel threads have none, and open no files of ours."""
    try:
        return bool((process / "cmdline").read_bytes())
    except OSError:
        return False


@contextmanager
def claimed(name: str, folder_fd: int, expected: FileKey, open_files: OpenFiles) -> Iterator[tuple[Use, int]]:
    """Find out whether `name` may go, and keep newcomers from opening it while the block runs.

    Yields the answer and a descriptor of the file (-1 where it could not be opened). Nobody waits longer than
    the block takes. Raises FileNotFoundError when the name is gone or is another file than `expected`.
    """
    if open_files.holds(expected):
        yield Use.IN_USE, -1
        return
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=folder_fd)
    except PermissionError:
        yield _if_unsure(open_files), -1
        return
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise FileNotFoundError(error.errno, "replaced by something else", name) from error
        if error.errno in (errno.EAGAIN, errno.ETXTBSY):
            yield Use.IN_USE, -1
            return
        raise
    try:
        if file_key(os.fstat(fd)) != expected:
            raise FileNotFoundError(errno.ENOENT, "replaced by another file", name)
        yield _claim(fd, open_files), fd
    finally:
        os.close(fd)  # gives the lock and the lease back


def _claim(fd: int, open_files: OpenFiles) -> Use:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            return Use.IN_USE
        # A file system without locks has none to respect.
    try:
        _lease(fd)
    except PermissionError:
        return _if_unsure(open_files)
    except OSError as error:
        # EAGAIN: somebody has it open. Anything else: this file system has no leases, and /proc has answered.
        return Use.IN_USE if error.errno == errno.EAGAIN else Use.FREE
    return Use.FREE


def _lease(fd: int) -> None:
    # The kernel tells a lease holder that somebody waits; the default signal for it would end this process.
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except PermissionError:
        # Root in a container often lacks CAP_LEASE (and may not look into others' /proc/PID/fd either), but
        # can still act as the file's owner, to whom the lease is always granted.
        owner = os.fstat(fd).st_uid
        if os.geteuid() != 0 or owner == 0:
            raise
        os.seteuid(owner)
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        finally:
            os.seteuid(0)


def _if_unsure(open_files: OpenFiles) -> Use:
    """Without a lease /proc alone decides, which is good enough only if it showed every process."""
    return Use.UNKNOWN if open_files.unseen_processes else Use.FREE
