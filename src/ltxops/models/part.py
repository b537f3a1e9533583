"""The part file that a weight arrives in: of full size from the start, with a journal of what is there."""

import ctypes
import errno
import os
import threading
from pathlib import Path

from ltxops.models import journal
from ltxops.models.journal import Journal, journal_of
from ltxops.models.lock import LockedFile
from ltxops.models.ranges import Spans

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYNC_FILE_RANGE_WRITE = 2  # of linux/fs.h
#: More at once gets larger pieces of the page cache, whose memory a virtual machine often has to ask its host
#: for: copying into them took up to five times as long.
_WRITE_BYTES = 128 * 1024
#: What file systems answer that cannot reserve space.
_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class PartFile:
    """The part at `path`, open. `spans` are the bytes and `source` the version that an earlier run left.

    Threads may write different bytes at the same time. All methods raise OSError.
    """

    def __init__(self, path: Path, promised: LockedFile) -> None:
        self.path = path
        found = journal.read(path, promised)
        if found is None:
            remove(path)
        self.spans, self.source = found or (Spans(), None)
        self._writing = threading.Lock()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o644)
        try:
            _reserve(self._descriptor, promised.size)
            self._journal = Journal(path, promised)
        except BaseException:
            os.close(self._descriptor)
            if found is None:
                # What was reserved before the disk was full helps nobody.
                remove(path)
            raise
        if found is None:
            self._journal.restart()
        else:
            self._journal.keep_whole_lines()

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of `data` at `offset`."""
        # The kernel lets one thread at a time write to a file, and threads that wait there burn a processor.
        with self._writing:
            while data:
                written = os.pwrite(self._descriptor, data[:_WRITE_BYTES], offset)
                data, offset = data[written:], offset + written

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Read bytes at `offset` into `buffer`; return how many."""
        return os.preadv(self._descriptor, [buffer], offset)

    def record(self, start: int, end: int) -> None:
        """Note in the journal that the bytes from `start` to `end` were written; let the disk begin."""
        self._journal.arrived(start, end)
        # Else the disk would begin when the last byte has come. What cannot be begun now is done by `sync`.
        _LIBC.sync_file_range(
            self._descriptor, ctypes.c_int64(start), ctypes.c_int64(end - start), _SYNC_FILE_RANGE_WRITE
        )

    def record_source(self, name: str) -> None:
        """Note in the journal which version of the content the bytes are of."""
        self._journal.source(name)

    def restart(self) -> None:
        """Forget what has arrived."""
        self._journal.restart()

    def sync(self) -> None:
        """Bring what was written to the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close both files; they stay for the next run."""
        self._journal.close()
        os.close(self._descriptor)


def remove(path: Path) -> None:
    """Remove a part file and its journal, as far as they are there."""
    path.unlink(missing_ok=True)
    journal_of(path).unlink(missing_ok=True)


def _reserve(descriptor: int, size: int) -> None:
    """Give the file its full size and its blocks, so that no other program can take them.

    Not os.posix_fallocate: where the file system cannot reserve, glibc would write the whole file once.
    """
    while size and _LIBC.fallocate(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size)) != 0:
        code = ctypes.get_errno()
        if code in _CANNOT_RESERVE:
            break
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    os.ftruncate(descriptor, size)
