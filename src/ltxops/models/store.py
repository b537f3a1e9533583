"""The folder that holds the weights (ComfyUI's models/), and the only code that changes it.

A file gets its final name by a rename, after its size and hash were proven; its proof then goes into the
ledger. The store's own files are in ROOT/.ltxops: the ledger, the lock, and `incoming` with what is still
arriving, on the same file system as the weights so that a rename is all it takes.
"""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ltxops.errors import BadInput
from ltxops.models import blocks, journal, rootlock
from ltxops.models.durable import explained, sync_folder
from ltxops.models.ledger import Ledger, Proof
from ltxops.models.model import STATE_FOLDER
from ltxops.models.plan import State, Wanted, state_of
from ltxops.models.proof import Digest, digest_of


class Store:
    """One root. Reading needs nothing; call `prepare` and hold `exclusive` before changing anything."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        if self.root.resolve() == Path(self.root.anchor):
            raise BadInput(f"--root {root} is the whole file system; give ComfyUI's models folder")
        if not _nearest(self.root).is_dir():
            raise BadInput(
                f"--root {root}: {_nearest(self.root)} is not a folder; give ComfyUI's models folder"
            )
        if _is_comfyui(self.root):
            raise BadInput(f"--root {root} is ComfyUI itself; give its models folder, {root}/models")
        #: The store's own folder.
        self.state = self.root / STATE_FOLDER
        self.incoming = self.state / "incoming"
        self.ledger = Ledger(self.state / "ledger.json")

    def prepare(self) -> None:
        """Make the root and the store's own folder. Raises BadInput, DiskFull."""
        if self.state.is_symlink() or self.incoming.is_symlink():
            raise BadInput(
                f"{self.state} or a folder in it is a symbolic link; remove the link and run again"
            )
        try:
            self.incoming.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise explained(error) from error
            raise BadInput(
                f"--root {self.root} cannot be used: {error.strerror}: {error.filename}"
            ) from error

    @contextlib.contextmanager
    def exclusive(self, wait_seconds: float = 0) -> Iterator[None]:
        """Hold the root's lock. Raises Busy when another run still has it after `wait_seconds`."""
        with rootlock.held(self.state / "lock", self.root, wait_seconds):
            # What the run before this one proved is needed now, not what was read before the wait.
            self.ledger = Ledger(self.state / "ledger.json")
            yield

    def check(self, destinations: Iterable[str]) -> None:
        """Raise BadInput for a destination whose links leave the root, or that a rename could not reach.

        A destination with a slash at its end is a folder. Works before the root exists; changes nothing.
        """
        real_root = self.root.resolve()
        folders = set()
        for dest in destinations:
            path = self.root / dest
            if dest.endswith("/"):
                folders.add(path)
                continue
            folders.add(path.parent)
            if path.is_symlink():
                raise BadInput(
                    f"{path} is a symbolic link; remove it, so that the weight itself can be put there"
                )
            if path.is_dir():
                raise BadInput(f"{path} is a folder, where the manifest wants a file; move it away")
        for folder in sorted(folders):
            self._check_folder(folder, real_root)

    def inspect(self, wanted: Iterable[Wanted]) -> list[tuple[Wanted, State]]:
        """Judge every file with one stat each."""
        return [
            (item, state_of(item, self._stat(item.dest), self.ledger.files.get(item.dest))) for item in wanted
        ]

    def free_bytes(self) -> int:
        """Return what is free for this user where the root is, or will be."""
        return shutil.disk_usage(_nearest(self.root)).free

    def part(self, wanted: Wanted) -> Path:
        """Return where a file arrives: one name for each content, so that a rerun finds it."""
        file = wanted.file
        identity = f"{file.size} {file.sha256 or file.git_blob or file.path}"
        name = file.path.rsplit("/", 1)[-1][:100]
        return self.incoming / f"{name}.{hashlib.sha256(identity.encode()).hexdigest()[:16]}.part"

    def arrived_bytes(self, wanted: Wanted) -> int:
        """Return how much of a file an earlier run has left in `incoming`."""
        part = self.part(wanted)
        if not wanted.repo:
            # What no hub describes comes in order, without a journal.
            return min(part.stat().st_size, wanted.file.size) if part.exists() else 0
        found = journal.read(part, wanted.file)
        return found[0].total if found else 0

    def reserved_bytes(self, wanted: Wanted) -> int:
        """Return how much of the disk a file has taken already, though its bytes may not be there yet."""
        try:
            return min(self.part(wanted).stat().st_blocks * 512, wanted.file.size)
        except FileNotFoundError:
            return 0

    def other_parts_bytes(self, wanted: Iterable[Wanted]) -> int:
        """Return how much of the disk is taken by what has arrived of other files than `wanted`."""
        if not self.incoming.is_dir():
            return 0
        mine = _with_journals(self.part(item) for item in wanted)
        return sum(path.stat().st_blocks * 512 for path in self.incoming.iterdir() if path not in mine)

    def sweep(self, keep: Iterable[Path]) -> None:
        """Remove what earlier runs left in `incoming`, but the parts `keep` and their journals."""
        kept = _with_journals(keep)
        for path in self.incoming.iterdir():
            if path not in kept:
                path.unlink()

    def adopt(self, wanted: Wanted) -> str | None:
        """Hash a file that is there: record its proof, or remove it and say what was wrong with it."""
        path = self.root / wanted.dest
        before = path.stat()
        digest = digest_of(path, wanted.file)
        if problem := digest.mismatch():
            self.remove(wanted)
            return problem
        earlier = self.ledger.files.get(wanted.dest)
        source = earlier.source if earlier is not None and earlier.proves(wanted.file) else "found"
        # The stat from before the hash: a write during the hash leaves a proof that no longer covers the
        # file.
        self.ledger.prove(wanted.dest, _proof(wanted, before, digest, source))
        return None

    def remove(self, wanted: Wanted) -> None:
        """Take a bad file away from under its final name.

        A hard link of it is as bad, though its proof may still cover it: that proof goes as well.
        """
        path = self.root / wanted.dest
        inode = path.stat().st_ino
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
        for dest in [dest for dest, proof in list(self.ledger.files.items()) if proof.inode == inode]:
            self.ledger.forget(dest)
        self.ledger.forget(wanted.dest)

    def share(self, wanted: Wanted) -> tuple[str, str] | None:
        """Place a file by sharing the content of one that is proven; return that one and how, or None."""
        for dest, proof in list(self.ledger.files.items()):
            stat = self._stat(dest)
            if wanted.file.sha256 is None or not proof.proves(wanted.file):
                continue
            if dest == wanted.dest or stat is None or not proof.covers(stat):
                continue
            target = self.part(wanted).with_suffix(".shared")
            target.unlink(missing_ok=True)
            how = blocks.share(self.root / dest, target)
            if (stat := self._stat(dest)) is None or not proof.covers(stat):
                # It was changed meanwhile, so what was shared may be the change.
                target.unlink()
                continue
            self._rename(wanted, target)
            placed = (self.root / wanted.dest).stat()
            self.ledger.prove(
                wanted.dest,
                replace(
                    proof,
                    mtime_ns=placed.st_mtime_ns,
                    inode=placed.st_ino,
                    repo=wanted.repo,
                    revision=wanted.revision,
                ),
            )
            return dest, how
        return None

    def place(self, wanted: Wanted, part: Path, digest: Digest, source: str) -> None:
        """Give a proven file, already synced to disk, its final name, and record the proof."""
        self._rename(wanted, part)
        journal.journal_of(part).unlink(missing_ok=True)
        proof = _proof(wanted, (self.root / wanted.dest).stat(), digest, source)
        self.ledger.prove(wanted.dest, proof)

    def _rename(self, wanted: Wanted, part: Path) -> None:
        final = self.root / wanted.dest
        final.parent.mkdir(parents=True, exist_ok=True)
        self.check([wanted.dest])
        part.replace(final)
        sync_folder(final.parent)

    def _stat(self, dest: str) -> os.stat_result | None:
        try:
            return (self.root / dest).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _check_folder(self, folder: Path, real_root: Path) -> None:
        if not folder.resolve().is_relative_to(real_root):
            raise BadInput(
                f"{folder} is a symbolic link that leaves {self.root}; point --root at the real folder"
            )
        existing = _nearest(folder)
        if not existing.is_dir():
            raise BadInput(f"{existing} is a file, where the manifest wants a folder; move it away")
        if existing.is_relative_to(self.root) and existing.stat().st_dev != self.root.stat().st_dev:
            raise BadInput(
                f"{existing} is on another file system than {self.root}; mount the whole root instead"
            )


def _is_comfyui(root: Path) -> bool:
    # A folder that cannot be looked into is none; that is told when something is wanted of it.
    with contextlib.suppress(PermissionError):
        return (root / "main.py").is_file() and (root / "models").is_dir()
    return False


def _nearest(path: Path) -> Path:
    """Return `path`, or the nearest parent that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _with_journals(parts: Iterable[Path]) -> set[Path]:
    return {path for part in parts for path in (part, journal.journal_of(part))}


def _proof(wanted: Wanted, stat: os.stat_result, digest: Digest, source: str) -> Proof:
    return Proof(
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        inode=stat.st_ino,
        sha256=digest.sha256,
        git_blob=digest.git_blob,
        repo=wanted.repo,
        revision=wanted.revision,
        source=source,
    )
