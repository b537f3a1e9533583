"""Proving bytes: the hash of a file against what the lock or the hub promised."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from ltxops.models.lock import LockedFile

_CHUNK_BYTES = 4 * 1024 * 1024


class Digest:
    """The sha256 of bytes as they pass, and git's blob id where the hub promises nothing else."""

    def __init__(self, promised: LockedFile) -> None:
        self._promised = promised
        self.restart()

    def restart(self) -> None:
        """Forget what has passed."""
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._blob = None
        if self._promised.sha256 is None and self._promised.git_blob is not None:
            # Git hashes a blob with its length in front, so the promised size must be known before the first
            # byte.
            self._blob = hashlib.sha1(b"blob %d\0" % self._promised.size, usedforsecurity=False)

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Add the next bytes."""
        self.size += len(data)
        self._sha256.update(data)
        if self._blob is not None:
            self._blob.update(data)

    @property
    def sha256(self) -> str:
        """The sha256 of what has passed, in hexadecimal."""
        return self._sha256.hexdigest()

    @property
    def git_blob(self) -> str | None:
        """Git's blob id of what has passed, where that is what was promised."""
        return self._blob.hexdigest() if self._blob is not None else None

    def mismatch(self) -> str | None:
        """Say how what has passed differs from what was promised, or return None when it is the same."""
        promised = self._promised
        if self.size != promised.size:
            return f"has {self.size} bytes, promised were {promised.size}"
        if promised.sha256 is not None and self.sha256 != promised.sha256:
            return f"has sha256 {self.sha256}, promised was {promised.sha256}"
        if promised.sha256 is None and self.git_blob != promised.git_blob:
            return f"has git blob id {self.git_blob}, promised was {promised.git_blob}"
        return None


def digest_of(path: Path, promised: LockedFile, told: Callable[[int], None] | None = None) -> Digest:
    """Read `path` once and return its digest; `told` gets the bytes as they are hashed. Raises OSError."""
    digest = Digest(promised)
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
            if told is not None:
                told(count)
    return digest
