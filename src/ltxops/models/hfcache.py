"""The host's own Hugging Face cache, where a weight may lie already. It is read, never changed.

Layout (huggingface_hub's documentation, "Understand caching"): FOLDER/models--OWNER--NAME/blobs/SHA256.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from ltxops.models import blocks
from ltxops.models.plan import Wanted
from ltxops.models.proof import Digest, digest_of

_CHUNK_BYTES = 1024 * 1024


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return where huggingface_hub keeps its cache under these environment variables."""
    if folder := environment.get("HF_HUB_CACHE"):
        return Path(folder).expanduser()
    if home := environment.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    base = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or "~").expanduser() / ".cache"
    return Path(base) / "huggingface/hub"


def blob_of(folder: Path, wanted: Wanted) -> Path | None:
    """Return the file of the cache that should be `wanted`, None when there is none of its size."""
    if wanted.file.sha256 is None or not wanted.repo:
        return None
    path = folder / f"models--{wanted.repo.replace('/', '--')}" / "blobs" / wanted.file.sha256
    try:
        return path if path.is_file() and path.stat().st_size == wanted.file.size else None
    except OSError:
        return None


def take(blob: Path, target: Path, wanted: Wanted, *, copy: bool) -> Digest | None:
    """Bring a blob to `target`, synced to disk, and return the digest of what is there now.

    As a reflink; where that cannot be, as a copy when `copy` is set, else not at all (None). Not as a hard
    link: the cache belongs to other programs, and what one of them did to its file would happen to ours.
    What is hashed is our own file, not the blob, which may change meanwhile. Raises OSError.
    """
    target.unlink(missing_ok=True)
    if blocks.clone(blob, target):
        return digest_of(target, wanted.file)
    return _copy(blob, target, wanted) if copy else None


def _copy(blob: Path, target: Path, wanted: Wanted) -> Digest:
    digest = Digest(wanted.file)
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with blob.open("rb", buffering=0) as source, target.open("xb", buffering=0) as copy:
        while digest.size < wanted.file.size and (count := source.readinto(buffer)):
            digest.update(buffer[:count])
            rest = buffer[:count]
            while rest:
                rest = rest[copy.write(rest) :]
        os.fsync(copy.fileno())
    return digest
