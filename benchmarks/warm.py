"""A finished store of 150 GB that takes no disk: sparse files, a lock and a ledger that vouch for them."""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from ltxops.models.ledger import Proof
from ltxops.models.store import Store

_COUNT = 40
_FILE_BYTES = 150_000_000_000 // _COUNT
_REPO = "benchmark/warm"
_COMMIT = "0" * 40
_IN_OPEN = 0x20
_EVENT = struct.Struct("iIII")


def write_store(folder: str) -> tuple[Path, Path]:
    """Write a manifest, its lock and a root that holds all of it; return manifest and root.

    The files are sparse and their hashes made up: the ledger says that they were proven, and a warm sync
    has to take its word for it.
    """
    manifest, root = Path(folder, "models.yaml"), Path(folder, "models")
    files = {f"model-{number:02}": f"{number:064x}" for number in range(_COUNT)}
    _write_yaml(
        manifest,
        models={name: {"repo": _REPO, "file": f"{name}.safetensors", "dest": "loras/"} for name in files},
        profiles={"all": {"models": list(files)}},
    )
    _write_yaml(
        manifest.with_name("models.lock.yaml"),
        models={
            name: {
                "repo": _REPO,
                "revision": _COMMIT,
                "files": [{"path": f"{name}.safetensors", "size": _FILE_BYTES, "sha256": sha256}],
            }
            for name, sha256 in files.items()
        },
    )
    store = Store(root)
    store.prepare()
    (root / "loras").mkdir()
    for name, sha256 in files.items():
        path = root / "loras" / f"{name}.safetensors"
        with path.open("wb") as stream:
            stream.truncate(_FILE_BYTES)
        stat = path.stat()
        proof = Proof(_FILE_BYTES, stat.st_mtime_ns, stat.st_ino, sha256, None, _REPO, _COMMIT, "found")
        store.ledger.prove(f"loras/{path.name}", proof)
    return manifest, root


def _write_yaml(path: Path, **content: object) -> None:
    path.write_text(yaml.safe_dump({"version": 1, **content}), encoding="utf-8")


@dataclass
class Opens:
    """How often a file of a folder was opened."""

    count: int = 0


@contextlib.contextmanager
def opens(folder: Path) -> Iterator[Opens]:
    """Count, with inotify, what is opened in `folder` during a `with`. Raises OSError when that cannot be."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "inotify cannot be had")
    try:
        if libc.inotify_add_watch(descriptor, os.fsencode(folder), _IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), f"{folder} cannot be watched")
        counted = Opens()
        yield counted
        counted.count = _drain(descriptor)
    finally:
        os.close(descriptor)


def _drain(descriptor: int) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while events := os.read(descriptor, 65536):
            while events:
                length = _EVENT.unpack_from(events)[3]
                # An event without a name is about the folder itself, not about a file in it.
                count += bool(length)
                events = events[_EVENT.size + length :]
    return count
