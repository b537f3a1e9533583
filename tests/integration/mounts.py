"""Small real file systems, for tests of what a file system refuses. They need root and mount."""

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
    where = folder / kind
    where.mkdir(parents=True)
    if kind == "tmpfs":
        command: list[str | Path] = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", where]
    else:
        image = folder / f"{kind}.img"
        subprocess.run(["truncate", "-s", size, image], check=True)
        make = subprocess.run([f"/usr/sbin/mkfs.{kind}", "-q", image], capture_output=True, text=True)
        assert make.returncode == 0, make.stderr
        command = ["mount", "-o", "loop", image, where]
    subprocess.run(command, check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)
