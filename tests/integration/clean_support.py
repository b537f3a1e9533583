"""Small real file systems for the tests of the cleaners, and how the cleaners are run."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

LTXOPS = [sys.executable, "-m", "ltxops.cli.main"]
MIB = 2**20
#: As an age in nanoseconds.
SECOND = 10**9
NEEDS_ROOT = pytest.mark.skipif(
    os.geteuid() != 0, reason="SKIPPED, NOT PROVEN: needs root for mounts and users"
)

#: The clock that files get their times from (clock_getres(2)): up to a tick behind time.time_ns().
_CLOCK_REALTIME_COARSE = 5
#: `ltxops` by a clock that stands still: no age depends on how long it takes.
_LTXOPS_AT = """
import sys, time
now = int(sys.argv.pop(1))
time.time_ns = lambda: now
from ltxops.cli.main import main
sys.exit(main())
"""


def moment() -> int:
    """Return a time in nanoseconds: what was written so far is of then or older, what comes is younger."""
    now = time.time_ns()
    while time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) <= now:
        time.sleep(0.001)
    return now


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


def run(*arguments: str, now_ns: int | None = None) -> tuple[int, dict[str, Any], str]:
    """Run `ltxops clean` with --json, at `now_ns` if given; returns exit code, the object, and stderr."""
    ltxops = LTXOPS if now_ns is None else [sys.executable, "-c", _LTXOPS_AT, str(now_ns)]
    done = subprocess.run(
        [*ltxops, "clean", *arguments, "--json"], capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout), done.stderr
