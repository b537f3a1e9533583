"""What lies under a root and no profile wants: found without a change, and removed on request.

Removed is only what ltxops fetched or copied there itself and nobody changed since, and parts of files that
nobody waits for. What an operator put there stays, whatever it is.
"""

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ltxops.models.durable import disk_errors_explained
from ltxops.models.ledger import Proof
from ltxops.models.lock import LockedFile
from ltxops.models.model import STATE_FOLDER, Model
from ltxops.models.plan import State, Wanted
from ltxops.models.proof import digest_of
from ltxops.models.store import Store

#: What the ledger says of a file that was there before ltxops.
_FOUND = "found"


@dataclass(frozen=True)
class Item:
    """A file that may go: `path` is below the root, with no link on the way; `dest` its name in the ledger.

    `size` and `on_disk` are in bytes; `key` (device and inode) is what it must still be when it goes.
    """

    path: str
    dest: str | None
    size: int
    on_disk: int
    links: int
    key: tuple[int, int]


@dataclass(frozen=True)
class Kept:
    """A file that no profile wants and that stays; `reason` says what it is."""

    path: str
    size: int
    reason: str


@dataclass(frozen=True)
class Findings:
    """What would go and what stays. `vanished` are names in the ledger without a file."""

    files: list[Item]
    parts: list[Item]
    kept: list[Kept]
    vanished: list[str]

    @property
    def freed(self) -> int:
        """How many bytes of the disk would become free."""
        return freed_bytes([*self.files, *self.parts])


def freed_bytes(items: Iterable[Item]) -> int:
    """Return what removing `items` frees: a content with another name elsewhere frees nothing."""
    listed = list(items)
    going = Counter(item.key for item in listed)
    content = {item.key: item for item in listed}
    return sum(item.on_disk for key, item in content.items() if going[key] >= item.links)


def find(store: Store, files: list[Wanted], unknown: list[Model]) -> Findings:
    """Look through the root of `store`; changes nothing, except that a file whose time changed is hashed.

    `files` are those that the profiles want, `unknown` the models whose files nobody knows: whatever could be
    theirs is wanted. Links are never followed.
    """
    real_root = store.root.resolve()
    wanted_paths = {_real(real_root, item.dest) for item in files}
    going, kept, vanished, known = [], [], [], set[str]()
    for dest, proof in sorted(store.ledger.files.items()):
        real = _real(real_root, dest)
        if real is None or real in wanted_paths or any(_could_be(model, dest) for model in unknown):
            continue
        known.add(real)
        item = _item(real_root, real, dest)
        if item is None:
            vanished.append(dest)
        elif proof.source == _FOUND:
            kept.append(Kept(real, item.size, "was there before ltxops, which only proved it"))
        elif not _unchanged(real_root / real, proof):
            kept.append(Kept(real, item.size, "changed since ltxops placed it"))
        else:
            going.append(item)
    for path, info in _walk(real_root):
        if path not in wanted_paths and path not in known and not any(_could_be(m, path) for m in unknown):
            kept.append(Kept(path, info.st_size, _kind(info)))
    return Findings(going, _parts(store, real_root, files), kept, vanished)


def remove(store: Store, findings: Findings) -> tuple[list[Item], int]:
    """Remove what `find` found; return what went, and the bytes that it freed. Hold the store's lock.

    A file that is no longer the one found stays. Folders that become empty go, except those right below the
    root, which are ComfyUI's own. Raises CheckFailed when the operating system refuses.
    """
    gone = []
    real_root = store.root.resolve()
    with disk_errors_explained(store.root):
        for item in [*findings.files, *findings.parts]:
            if _remove(real_root, item):
                gone.append(item)
                if item.dest is not None:
                    store.ledger.forget(item.dest)
        for dest in findings.vanished:
            store.ledger.forget(dest)
        for folder in {item.path.rpartition("/")[0] for item in gone if item.dest is not None}:
            _remove_empty(real_root, folder)
    return gone, freed_bytes(gone)


def _real(real_root: Path, dest: str) -> str | None:
    """Return a destination's path below the root with the links of its folders resolved; None outside."""
    folder = (real_root / dest).parent.resolve()
    if not folder.is_relative_to(real_root):
        return None
    return (folder.relative_to(real_root) / Path(dest).name).as_posix()


def _could_be(model: Model, path: str) -> bool:
    if model.file is not None:
        return path == model.destination(model.file)
    return path.startswith(model.dest) and model.selects(path[len(model.dest) :])


def _item(real_root: Path, path: str, dest: str | None) -> Item | None:
    """Return what is known of a regular file; None when there is none."""
    try:
        info = (real_root / path).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(info.st_mode):
        return None
    return Item(path, dest, info.st_size, info.st_blocks * 512, info.st_nlink, (info.st_dev, info.st_ino))


def _unchanged(path: Path, proof: Proof) -> bool:
    """Tell whether the file is the one that was placed; one that only moved to another disk is."""
    info = path.stat()
    if proof.covers(info):
        return True
    return info.st_size == proof.size and digest_of(path, LockedFile("", proof.size)).sha256 == proof.sha256


def _walk(real_root: Path, folder: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield all that is no folder, below the root, except what belongs to the store."""
    with os.scandir(real_root / folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{folder}/{entry.name}".lstrip("/")
        if entry.is_dir(follow_symlinks=False):
            if path != STATE_FOLDER:
                yield from _walk(real_root, path)
            continue
        info = entry.stat(follow_symlinks=False)
        # ComfyUI marks each of its folders with an empty file; those say nothing to anybody here.
        if info.st_size or not stat.S_ISREG(info.st_mode):
            yield path, info


def _kind(info: os.stat_result) -> str:
    if stat.S_ISLNK(info.st_mode):
        return "a symbolic link, not placed by ltxops"
    return "not placed by ltxops" if stat.S_ISREG(info.st_mode) else "no file, not placed by ltxops"


def _parts(store: Store, real_root: Path, files: list[Wanted]) -> list[Item]:
    """Return what is in `incoming` for none of the files that are still to come."""
    folder = store.incoming.relative_to(store.root)
    if not store.incoming.is_dir() or store.incoming.resolve() != real_root / folder:
        return []
    # Beside a part its journal may lie, which has the part's name and more.
    stems = tuple(store.part(item).stem for item, state in store.inspect(files) if state is not State.PRESENT)
    found = [
        _item(real_root, (folder / path.name).as_posix(), None)
        for path in sorted(store.incoming.iterdir())
        if not path.name.startswith(stems)
    ]
    return [item for item in found if item is not None]


def _remove(real_root: Path, item: Item) -> bool:
    """Remove one file, if it still is what was found; no link on the way is followed."""
    folder, _, name = item.path.rpartition("/")
    with contextlib.ExitStack() as stack:
        try:
            descriptor = _open_folder(stack, real_root, folder)
            info = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if (info.st_dev, info.st_ino) != item.key or info.st_size != item.size:
            return False
        os.unlink(name, dir_fd=descriptor)
        return True


def _remove_empty(real_root: Path, folder: str) -> None:
    while "/" in folder:
        folder, _, name = folder.rpartition("/")
        with contextlib.ExitStack() as stack:
            try:
                os.rmdir(name, dir_fd=_open_folder(stack, real_root, folder))
            except OSError:
                # Not empty, or no longer there.
                return


def _open_folder(stack: contextlib.ExitStack, real_root: Path, folder: str) -> int:
    """Open a folder below the root step by step; a link on the way ends in NotADirectoryError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(real_root, flags)
    stack.callback(os.close, descriptor)
    for part in filter(None, folder.split("/")):
        descriptor = os.open(part, flags, dir_fd=descriptor)
        stack.callback(os.close, descriptor)
    return descriptor
