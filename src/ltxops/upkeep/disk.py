"""How much room is left on a disk, and whether that is enough to begin something that must be saved there."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from ltxops.units import format_bytes

#: Some file systems (XFS, Btrfs) give blocks back a moment after the deletion.
_SETTLE_SECONDS = 1.0


def free_bytes(place: "int | str | Path") -> int:
    """Return what an ordinary user can still write at `place`, a path or an open descriptor, in bytes.

    What is reserved for root does not count. Raises OSError when the place cannot be asked.
    """
    usage = os.statvfs(place)
    return usage.f_bavail * usage.f_frsize


def shortage(place: str, free: int, floor_bytes: int) -> str:
    """Return why nothing new may begin at `place` with `free` bytes left, empty while there is room."""
    if free >= floor_bytes:
        return ""
    return (
        f"the disk of {place} has {format_bytes(free)} free and needs {format_bytes(floor_bytes)}: "
        "a result could not be saved; free space, then try again"
    )


def settled(free: Callable[[], int], wanted_bytes: int) -> int:
    """Return the free bytes once they reach `wanted_bytes`, or what they are after a short wait."""
    give_up = time.monotonic() + _SETTLE_SECONDS
    while (now := free()) < wanted_bytes and time.monotonic() < give_up:
        time.sleep(0.1)
    return now
