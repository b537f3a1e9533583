"""Progress for a program that reads along: JSON lines on stdout. docs/models.md explains the fields."""

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from ltxops.models.progress import Happening, Outcome, Sink
from ltxops.models.snapshot import Snapshot

_PROGRESS_SECONDS = 0.5


class Events(Sink):
    """One JSON object a line: start, finish and note as they happen, progress twice a second, done."""

    def __init__(self) -> None:
        self._last = 0.0

    def show(self, happenings: Sequence[Happening], snapshot: Snapshot) -> None:
        lines = [fields_of(happening) for happening in happenings]
        if snapshot.under_way and time.monotonic() - self._last >= _PROGRESS_SECONDS:
            self._last = time.monotonic()
            lines.append({"event": "progress", **snapshot.fields()})
        self._write(lines)

    def end(self, outcome: Outcome, snapshot: Snapshot) -> None:
        ended = {"ok": outcome.exit_code == 0, "exit_code": outcome.exit_code, "error": outcome.error}
        self._write([{"event": "done", **ended, **snapshot.fields()}])

    def _write(self, lines: Sequence[dict[str, Any]]) -> None:
        if not lines:
            return
        now = round(time.time(), 3)
        try:
            sys.stdout.write("".join(json.dumps({**line, "time": now}) + "\n" for line in lines))
            sys.stdout.flush()
        except BrokenPipeError:
            # Who read along has gone; the sync goes on, and its result is written to nobody.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise


def fields_of(happening: Happening) -> dict[str, Any]:
    """Return the event that tells of a happening."""
    if happening.kind == "note":
        return {"event": "note", "text": happening.text}
    common = {"event": happening.kind, "file": happening.dest, "bytes_total": happening.size}
    if happening.kind == "start":
        return {**common, "bytes_done": happening.arrived}
    return {**common, "seconds": round(happening.seconds, 3)}
