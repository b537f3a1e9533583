"""Does a cron daemon really start what lies in /etc/cron.d? A process named cron proves nothing."""

import re
import time
from pathlib import Path

from ltxops.errors import BadInput, CheckFailed

_FOLDER = Path("/etc/cron.d")


def prove(stamp: Path, timeout_seconds: int, folder: Path = _FOLDER) -> int:
    """Wait until cron has run an entry of ours, made for this alone; returns how many seconds that took.

    `stamp` is written by that entry; where it is newer than the machine's start, nothing is waited for.
    Raises CheckFailed when nothing happened in time, BadInput when the entry cannot be placed.
    """
    if "'" in str(stamp) or "%" in str(stamp) or not stamp.is_absolute():
        raise BadInput(f"--stamp is {str(stamp)!r}: give an absolute path without quotes and percent signs")
    if _is_fresh(stamp):
        return 0
    entry = folder / "ltxops-proof"
    started = time.monotonic()
    try:
        stamp.unlink(missing_ok=True)
        # cron reads a file once it is whole only if it appears as a whole.
        part = folder / ".ltxops-proof"
        part.write_text(f"SHELL=/bin/sh\nMAILTO=\"\"\n* * * * * root touch '{stamp}'\n")
        part.chmod(0o644)
        part.replace(entry)
    except OSError as error:
        raise BadInput(f"{entry} cannot be written ({error}): run this as root") from error
    try:
        while not stamp.exists():
            if time.monotonic() - started >= timeout_seconds:
                raise CheckFailed(
                    f"no cron daemon has run {entry} within {timeout_seconds} s: start cron, or let the "
                    "janitor clean (cleanup_scheduler: janitor)"
                )
            time.sleep(0.5)
    finally:
        entry.unlink(missing_ok=True)
    return round(time.monotonic() - started)


def _is_fresh(stamp: Path) -> bool:
    """Tell whether the proof is newer than the machine's start (btime of proc_stat(5))."""
    started = re.search(r"^btime ([0-9]+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    try:
        return started is not None and stamp.stat().st_mtime >= int(started[1])
    except OSError:
        return False
