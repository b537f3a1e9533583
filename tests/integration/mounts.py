"""Small real file systems, for tests of what a file system refuses. They need root and mount."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, kind: str, size: str) -> Iterator[Path]:
    """Mount a new file system of `kind` (tmpfs, or one that mkfs makes in a file) and return where."""
    if os.geteuid() != 0:
        pytest.skip("not root, so no small file system can be mounted")
    what: tuple[str | Path, ...] = ("-t", "tmpfs", "-o", f"size={size}", "tmpfs")
    if kind != "tmpfs":
        folder.mkdir(parents=True, exist_ok=True)
        image = folder / f"{kind}.img"
        subprocess.run(["truncate", "-s", size, image], check=True)
        make = subprocess.run([f"/usr/sbin/mkfs.{kind}", "-q", image], capture_output=True, text=True)
        assert make.returncode == 0, make.stderr
        what = ("-o", "loop", image)
    with _mounted(folder / kind, *what) as where:
        yield where


@contextmanager
def after_a_power_cut(folder: Path, kind: str) -> Iterator[Path]:
    """Mount what the disk of a file system that is `mounted` holds now, without what only memory holds."""
    image = folder / "cut.img"
    subprocess.run(["cp", "--sparse=always", folder / f"{kind}.img", image], check=True)
    with _mounted(folder / "cut", "-o", "loop", image) as where:
        yield where


@contextmanager
def _mounted(where: Path, *what: str | Path) -> Iterator[Path]:
    where.mkdir(parents=True)
    subprocess.run(["mount", *what, where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


def fill(folder: Path) -> None:
    """Take all the space that is left, as another program would."""
    with (folder / "filler").open("wb", buffering=0) as stream:
        for size in (1024 * 1024, 1024):
            try:
                while True:
                    stream.write(b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC


def used_bytes(folder: Path) -> int:
    """Return how much of the file system of `folder` is in use."""
    stat = os.statvfs(folder)
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize
