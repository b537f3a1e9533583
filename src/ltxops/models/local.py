"""Getting weights without the network: from a proven file of the same content, the Hugging Face cache, or
(where it can share its blocks) a file at hand.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from ltxops.models import blocks, hfcache
from ltxops.models.plan import Wanted
from ltxops.models.progress import Display
from ltxops.models.proof import digest_of
from ltxops.models.store import Store
from ltxops.units import format_bytes


def split_twins(files: Iterable[Wanted]) -> tuple[list[Wanted], list[Wanted]]:
    """Return the files to get, one for each content, and those that are the same content again."""
    first: list[Wanted] = []
    again: list[Wanted] = []
    seen: set[tuple[str, int]] = set()
    for item in files:
        content = (item.file.sha256 or "", item.file.size)
        (again if item.file.sha256 and content in seen else first).append(item)
        seen.add(content)
    return first, again


def share(store: Store, files: list[Wanted], shared: list[str], show: Display) -> list[Wanted]:
    """Place every file whose content is proven under another name; return the others."""
    others = []
    for item in files:
        found = store.share(item)
        if found is None:
            others.append(item)
        else:
            twin, how = found
            shared.append(item.dest)
            show.note(f"shared   {item.dest} ({format_bytes(item.file.size)}, {how} of {twin})")
    return others


def take_cached(
    store: Store, files: list[Wanted], cached: list[str], show: Display, *, copy: bool
) -> list[Wanted]:
    """Place every file that the Hugging Face cache has; return the others. Without `copy`: only reflinks."""
    folder = hfcache.cache_folder(os.environ)
    return [item for item in files if not _take(store, folder, item, cached, show, copy=copy)]


def _take(store: Store, folder: Path, item: Wanted, cached: list[str], show: Display, *, copy: bool) -> bool:
    blob = hfcache.blob_of(folder, item)
    if blob is None:
        return False
    target = store.part(item).with_suffix(".cached")
    try:
        blob.open("rb").close()
    except OSError as error:
        show.note(f"ignored  {blob} in the Hugging Face cache: {error.strerror}")
        return False
    digest = hfcache.take(blob, target, item, copy=copy)
    if digest is None:
        return False
    if problem := digest.mismatch():
        target.unlink()
        show.note(f"ignored  {blob} in the Hugging Face cache: it {problem}")
        return False
    store.place(item, target, digest, "huggingface cache")
    cached.append(item.dest)
    show.note(f"cached   {item.dest} ({format_bytes(item.file.size)}, from {folder})")
    return True


def clone_at_hand(store: Store, files: list[Wanted], shared: list[str], show: Display) -> list[Wanted]:
    """Place every file at hand whose blocks can be shared with it (reflink); return the others."""
    return [item for item in files if not item.path or not _clone(store, item, Path(item.path), shared, show)]


def _clone(store: Store, item: Wanted, source: Path, shared: list[str], show: Display) -> bool:
    target = store.part(item).with_suffix(".cloned")
    target.unlink(missing_ok=True)
    try:
        if not blocks.clone(source, target):
            return False
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
        # Whoever copies it says what is wrong.
        return False
    digest = digest_of(target, item.file)
    if digest.mismatch():
        target.unlink()
        return False
    store.place(item, target, digest, str(source))
    shared.append(item.dest)
    show.note(f"shared   {item.dest} ({format_bytes(item.file.size)}, reflink of {source})")
    return True
