"""Bringing one file from the hub: hashed while it is written, bounded, and resumed after a kill."""

import errno
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ltxops.errors import DiskFull, IntegrityError, LtxopsError
from ltxops.models.lock import LockedFile
from ltxops.models.plan import Wanted
from ltxops.models.proof import Digest
from ltxops.units import format_bytes

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from ltxops.models.hub import Hub

_CHUNK_BYTES = 4 * 1024 * 1024


class Stopped(LtxopsError):
    """The run is ending because another file failed; what has arrived of this one stays for the next run."""


class PartFile(io.BufferedWriter):
    """The file that bytes arrive in. What an earlier run left in it is hashed and counts as arrived.

    It takes no byte beyond the promised size, however much a server sends.
    """

    def __init__(
        self, path: Path, promised: LockedFile, arrived: Callable[[int], None], stop: threading.Event
    ) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        raw = io.FileIO(descriptor, "r+b")
        super().__init__(raw)
        self.digest = Digest(promised)
        self._promised = promised
        self._arrived = arrived
        self._stop = stop
        while self.digest.size < promised.size and (chunk := raw.read(_CHUNK_BYTES)):
            self.digest.update(chunk[: promised.size - self.digest.size])
        raw.seek(self.digest.size)
        raw.truncate()
        #: How many bytes an earlier run had left.
        self.resumed = self.digest.size

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write and hash the next bytes. Raises IntegrityError beyond the promised size."""
        if self._stop.is_set():
            raise Stopped("stopped")
        view = memoryview(data)
        if self.digest.size + view.nbytes > self._promised.size:
            raise IntegrityError(
                f"{self._promised.path}: the hub sent more than the {self._promised.size} bytes promised; "
                "the file was rejected: check that the hub is the right one"
            )
        written = super().write(view)
        self.digest.update(view)
        self._arrived(view.nbytes)
        return written

    def restart(self) -> None:
        """Forget all that has arrived."""
        self.seek(0)
        self.truncate()
        self.resumed = 0

    def seek(self, target: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to the start, for a download that starts over, or stay at the end."""
        if whence != io.SEEK_SET or target not in (0, self.digest.size):
            raise ValueError(f"seek to {target}: bytes are hashed in order")
        if target == 0 and self.digest.size:
            self._arrived(-self.digest.size)
            self.digest.restart()
        return super().seek(target)


def fetch(
    hub: "Hub", wanted: Wanted, path: Path, arrived: Callable[[int], None], stop: threading.Event
) -> Digest:
    """Bring a file to `path`, proven and synced to disk; return its digest.

    `arrived` is told the bytes as they come, less than 0 when some have to come again. Raises IntegrityError
    (with nothing left at `path`), DiskFull, and what `Hub.download` raises (with what has arrived left for
    the next run).
    """
    try:
        with PartFile(path, wanted.file, arrived, stop) as part:
            problem = _download(hub, wanted, part)
            if problem and part.resumed:
                # The beginning came from an earlier run, so it may be that which is bad.
                part.restart()
                problem = _download(hub, wanted, part)
            if problem is None:
                part.flush()
                os.fsync(part.fileno())
                return part.digest
    except IntegrityError:
        path.unlink(missing_ok=True)
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"the disk of {path.parent} filled up while {wanted.dest} arrived "
                f"({format_bytes(wanted.file.size)}); "
                "free some space and run again: finished files are intact"
            ) from error
        raise
    path.unlink(missing_ok=True)
    raise IntegrityError(
        f"{wanted.dest}: what {hub.url} sent for {wanted.repo} {wanted.file.path} {problem}; it was thrown "
        "away: run again, and if it stays so ask another hub with --hub or check models.lock.yaml"
    )


def _download(hub: "Hub", wanted: Wanted, part: PartFile) -> str | None:
    try:
        hub.download(wanted.repo, wanted.revision, wanted.file, part)
    except OSError as error:
        # http_get reports a complete answer of the wrong length as an OSError without a number.
        if error.errno is not None:
            raise
    return part.digest.mismatch()
