"""One run a root: the lock that whoever changes a root holds."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ltxops.errors import Busy

_POLL_SECONDS = 0.2


@contextlib.contextmanager
def held(path: Path, root: Path, wait_seconds: float) -> Iterator[None]:
    """Hold the lock file `path` of `root`. Raises Busy when another still has it after `wait_seconds`."""
    deadline = time.monotonic() + wait_seconds
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        while not _taken(descriptor):
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                raise Busy(
                    f"another run (process {holder}) is changing {root}; wait for it to end, "
                    "or give --wait SECONDS"
                )
            time.sleep(_POLL_SECONDS)
        # For the message of others alone: a disk without room for it is no reason not to run.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
