"""Progress for whoever comes and looks: a small JSON file, replaced about once a second.

It belongs to the run that holds the root's lock; one that waits for the lock leaves it alone. docs/models.md
explains the fields.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ltxops.models.progress import Happening, Outcome, Sink
from ltxops.models.snapshot import Snapshot

_WRITE_SECONDS = 1.0


class ProgressFile(Sink):
    """Keeps `path` up to date; says once with `note` when that is not possible, and tries on."""

    def __init__(self, path: Path, note: Callable[[str], None]) -> None:
        self._path = path
        self._note = note
        self._noted = False
        self._began: float | None = None
        self._last = 0.0

    def begin(self, snapshot: Snapshot) -> None:
        self._began = time.time()
        self._write("running", snapshot, Outcome())

    def show(self, happenings: Sequence[Happening], snapshot: Snapshot) -> None:
        if self._began is not None and time.monotonic() - self._last >= _WRITE_SECONDS:
            self._write("running", snapshot, Outcome())

    def end(self, outcome: Outcome, snapshot: Snapshot) -> None:
        if self._began is not None:
            self._write("failed" if outcome.exit_code else "done", snapshot, outcome)

    def _write(self, state: str, snapshot: Snapshot, outcome: Outcome) -> None:
        self._last = time.monotonic()
        content = {
            "state": state,
            "pid": os.getpid(),
            "pid_start_ticks": start_ticks(os.getpid()),
            "started": self._began,
            "updated": time.time(),
            **snapshot.fields(),
            "files": [_row(file.dest, file.size, file.arrived, file.percent) for file in snapshot.under_way],
            "summary": snapshot.summary(),
            "note": snapshot.note,
            "error": outcome.error,
            "exit_code": outcome.exit_code if state != "running" else None,
        }
        try:
            _replace(self._path, json.dumps(content, indent=1) + "\n")
        except OSError as error:
            if not self._noted:
                self._noted = True
                reason = error.strerror or error
                self._note(f"progress cannot be written to {self._path} ({reason}); the sync goes on without")


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot, or None when it is gone.

    Together with the number it names one process, also when the number is used again (proc_pid_stat(5),
    field 22). None as well where there is no /proc.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rsplit(")", 1)[1].split()[19])


def _row(dest: str, size: int, arrived: int, percent: int) -> dict[str, Any]:
    return {"file": dest, "bytes_total": size, "bytes_done": arrived, "percent": percent}


def _replace(path: Path, text: str) -> None:
    """Replace `path` with `text` at once. Not synced to disk: after a power cut nobody needs it."""
    part = path.with_name(f".{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    part.replace(path)
