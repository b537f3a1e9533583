"""Second names for the same content: sharing its blocks where the file system can."""

import errno
import fcntl
import os
import shutil
from pathlib import Path

# linux/fs.h: _IOW(0x94, 9, int)
_FICLONE = 0x40049409
#: What file systems answer that cannot share blocks, or not between these two files.
_CANNOT_CLONE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM)
_CANNOT_LINK = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def clone(source: Path, target: Path) -> bool:
    """Make `target` a file of its own with the blocks of `source` (reflink); False where that cannot be.

    A later change of one does not show in the other. Raises OSError.
    """
    with source.open("rb") as original, target.open("xb") as copy:
        try:
            fcntl.ioctl(copy, _FICLONE, original.fileno())
        except OSError as error:
            target.unlink()
            if error.errno in _CANNOT_CLONE:
                return False
            raise
        os.fsync(copy.fileno())
    return True


def share(source: Path, target: Path) -> str:
    """Make `target` hold what `source` holds and say how: as a reflink, a hard link, or else a copy.

    Both are the store's own, so a hard link is safe: nothing writes into a placed file, and whatever does
    changes the time that the proofs of both names are bound to. Raises OSError.
    """
    if clone(source, target):
        return "reflink"
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        shutil.copyfile(source, target)
        with target.open("rb") as copy:
            os.fsync(copy.fileno())
        return "copy"
    return "hard link"
