"""Writing files so that a crash leaves the old content or the new, never a part of either."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ltxops.errors import CheckFailed, DiskFull, LtxopsError


@contextlib.contextmanager
def disk_errors_explained(where: Path) -> Iterator[None]:
    """Turn what the operating system refuses under `where` into DiskFull or CheckFailed."""
    try:
        yield
    except OSError as error:
        raise explained(error, where) from error


def explained(error: OSError, where: Path | None = None) -> LtxopsError:
    """Return the sentence for what the operating system refuses, at `where` if it does not tell itself."""
    place = error.filename or where or "the operating system"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{place}: the disk is full; free some space and run again: nothing is lost")
    return CheckFailed(f"{place}: {reason(error)}; check its owner, mode and disk")


def reason(error: Exception) -> str:
    """Return what went wrong in words alone: the message around it names the file already."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace `path` with `text` (UTF-8) atomically; a file that was there keeps its mode."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` with `content` atomically; a file that was there keeps its mode."""
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:64]}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
