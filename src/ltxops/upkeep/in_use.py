"""Which files somebody still needs at this moment: open in any process, or locked.

Three questions, because none of them sees everything. /proc lists what is open, but not in another user's
processes or another container. A write lease (fcntl(2), F_SETLEASE) is granted by the kernel only if nobody
else has the file open or mapped, and holds new openers off until it is given back, but only to the file's
owner and not on every file system. An advisory lock says so even where the other two cannot be asked.
"""

import errno
import fcntl
import os
import time
from enum import Enum
from pathlib import Path

from ltxops.upkeep.output_root import FileKey, file_key

#: One scan serves this many seconds of deleting; the lease covers the time in between.
SCAN_LASTS_SECONDS = 5.0
#: How a file is opened to be claimed: whatever it turned into meanwhile, the opening has no effect.
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Use(Enum):
    """What is known about a file."""

    FREE = "free"
    IN_USE = "in use"
    UNKNOWN = "unknown"


class OpenFiles:
    """The files that processes of this machine have open or stand in, read from /proc and kept fresh."""

    def __init__(self) -> None:
        self._keys: set[FileKey] = set()
        self._read_at = -SCAN_LASTS_SECONDS
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
    """Return everything open (working folders too), and of how many processes this user may not know it.

    This process does not count: it holds the folders open that it walks through.
    """
    keys: set[FileKey] = set()
    unseen = 0
    own = str(os.getpid())
    for process in proc.iterdir():
        if process.name.isdecimal() and process.name != own:
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


def claim(name: str, folder_fd: int, expected: FileKey, open_files: OpenFiles) -> tuple[Use, int]:
    """Find out whether `name` may go, and keep newcomers from opening it until the descriptor is closed.

    Returns the answer and a descriptor of the file for the caller to close (-1 where it could not be opened).
    The caller proves that it is the file it meant, and survives the signal by which the kernel tells a lease
    holder of a newcomer (signals.py). Raises FileNotFoundError when the name is gone or no
    regular file any more.
    """
    if open_files.holds(expected):
        return Use.IN_USE, -1
    try:
        fd = os.open(name, READ_FLAGS, dir_fd=folder_fd)
    except PermissionError:
        return _if_unsure(open_files), -1
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise FileNotFoundError(error.errno, "replaced by something else", name) from error
        if error.errno in (errno.EAGAIN, errno.ETXTBSY):
            return Use.IN_USE, -1
        raise
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        return _without_lease(fd, error, open_files), fd
    return Use.FREE, fd


def _without_lease(fd: int, refused: OSError, open_files: OpenFiles) -> Use:
    """Ask the other ways. A lease that was granted needs none: whoever holds a lock has the file open."""
    if refused.errno == errno.EAGAIN:
        return Use.IN_USE
    if refused.errno == errno.EACCES:
        try:
            if _lease_as_owner(fd):
                return Use.FREE
        except BlockingIOError:
            return Use.IN_USE
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return Use.IN_USE
    except OSError:
        pass  # a file system without locks has none to respect
    return _if_unsure(open_files)


def _lease_as_owner(fd: int) -> bool:
    """Root in a container often lacks CAP_LEASE, and may not look into others' /proc/PID/fd either, but can
    act as the file's owner, to whom the lease is always granted. Raises BlockingIOError when it is in use."""
    owner = os.fstat(fd).st_uid
    if os.geteuid() != 0 or owner == 0:
        return False
    try:
        os.seteuid(owner)
    except PermissionError:
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except PermissionError:
        return False
    finally:
        os.seteuid(0)
    return True


def _if_unsure(open_files: OpenFiles) -> Use:
    """Without a lease /proc alone decides, which is good enough only if it showed every process."""
    return Use.UNKNOWN if open_files.unseen_processes else Use.FREE
