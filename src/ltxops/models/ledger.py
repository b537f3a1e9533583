"""The ledger: what was proven about each file, and what each unlocked name was found to stand for.

It lies beside the weights (ROOT/.ltxops/ledger.json), so that a volume which moves to another container
keeps its proof. Losing it costs one pass of hashing, never a download.
"""

import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ltxops.models.durable import reason, write_text
from ltxops.models.lock import LockedFile, LockedModel


@dataclass(frozen=True)
class Proof:
    """A file was hashed when it had this size (bytes), modification time and inode.

    `source` is the URL of the hub that it was fetched from, or `found` for a file that was there already.
    """

    size: int
    mtime_ns: int
    inode: int
    sha256: str
    git_blob: str | None
    repo: str
    revision: str
    source: str

    def covers(self, stat: os.stat_result) -> bool:
        """Tell whether the file is still the one that was hashed."""
        return (self.size, self.mtime_ns, self.inode) == (stat.st_size, stat.st_mtime_ns, stat.st_ino)

    def proves(self, file: LockedFile) -> bool:
        """Tell whether what was hashed is what is wanted."""
        if file.sha256 is not None:
            return self.size == file.size and self.sha256 == file.sha256
        return self.size == file.size and self.git_blob == file.git_blob


class Ledger:
    """The proofs of one root, kept on disk. Safe to use from several threads; `save` writes atomically."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        self.files: dict[str, Proof] = {}
        self.resolved: dict[str, LockedModel] = {}
        #: Why the file on disk could not be used, for a line to the user.
        self.problem: str | None = None
        try:
            self._read(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            self.files, self.resolved = {}, {}
            self.problem = f"{path} cannot be used ({reason(error)}); every file has to be hashed again"

    def prove(self, dest: str, proof: Proof) -> None:
        """Record the proof of a file that lies under its final name, and save."""
        with self._guard:
            self.files[dest] = proof
            self._write()

    def forget(self, dest: str) -> None:
        """Drop the proof of a file that is gone, and save."""
        with self._guard:
            if self.files.pop(dest, None) is not None:
                self._write()

    def remember(self, resolved: dict[str, LockedModel]) -> None:
        """Record what unlocked models stand for, and save."""
        with self._guard:
            self.resolved.update(resolved)
            self._write()

    def _write(self) -> None:
        content = {
            "version": 1,
            "files": {dest: asdict(proof) for dest, proof in sorted(self.files.items())},
            "resolved": {name: asdict(model) for name, model in sorted(self.resolved.items())},
        }
        write_text(self._path, json.dumps(content, indent=1) + "\n")

    def _read(self, content: dict[str, Any]) -> None:
        if content["version"] != 1:
            raise ValueError(f"version {content['version']} is not known")
        self.files = {dest: Proof(**proof) for dest, proof in content["files"].items()}
        self.resolved = {
            name: LockedModel(
                repo=model["repo"],
                revision=model["revision"],
                select=tuple(model["select"]),
                ref=model["ref"],
                files=tuple(LockedFile(**file) for file in model["files"]),
            )
            for name, model in content["resolved"].items()
        }
