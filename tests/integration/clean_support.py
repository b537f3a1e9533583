"""Small real file systems for the tests of the cleaners, and how the cleaners are run."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

LTXOPS = [sys.executable, "-m", "ltxops.cli.main"]
MIB = 2**20
NEEDS_ROOT = pytest.mark.skipif(
    os.geteuid() != 0, reason="SKIPPED, NOT PROVEN: needs root for mounts and users"
)


@contextmanager
def disk(folder: Path, kind: str, mib: int) -> Iterator[Path]:
    """Mount a `tmpfs` or an `ext4` of about `mib` MiB below `folder`; unmounted whatever happens."""
    mountpoint = folder / "disk"
    mountpoint.mkdir()
    if kind == "tmpfs":
        mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(mountpoint)]
    else:
        image = folder / "image"
        with image.open("wb") as file:
            file.truncate((mib + 2) * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(image)], check=True)
        mount = ["mount", "-o", "loop", str(image), str(mountpoint)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"SKIPPED, NOT PROVEN: cannot mount a {kind}: {done.stderr.strip()}")
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", str(mountpoint)], check=True)


def marked(folder: Path) -> Path:
    """Make an output folder."""
    folder.mkdir(parents=True)
    (folder / ".ltxops-output").touch()
    return folder


def make(path: Path, size: int) -> Path:
    """Write a file of `size` bytes that are really on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(os.urandom(size))
        os.fsync(file.fileno())
    return path


def free(folder: Path) -> int:
    """Bytes that an ordinary user can still write."""
    usage = os.statvfs(folder)
    return usage.f_bavail * usage.f_frsize


def run(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run `ltxops clean` with --json; returns exit code, the object, and stderr."""
    done = subprocess.run(
        [*LTXOPS, "clean", *arguments, "--json"], capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout), done.stderr
