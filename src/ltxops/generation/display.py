"""How a person follows a smoke run: a live bar on a terminal, plain lines in a log, JSON lines on request."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ltxops.generation.steps import Listener


def step_line(event: dict[str, Any]) -> str:
    """Return the line that tells of a finished step."""
    mark = "ok  " if event["ok"] else "FAIL"
    return f"{mark} {event['case']}: {event['name']} ({event['seconds']:.1f} s) {event['detail']}".rstrip()


@contextmanager
def listening(events: bool) -> Iterator[Listener]:
    """Give the listener that fits: JSON lines on stdout with `events`, else text on stderr."""
    if events:
        yield lambda event: print(json.dumps(event), flush=True)
    elif sys.stderr.isatty():
        with _live() as listener:
            yield listener
    else:
        yield _Lines().hear


class _Lines:
    """One line a step, and one each time another node starts to work."""

    def __init__(self) -> None:
        self._node: str | None = None

    def hear(self, event: dict[str, Any]) -> None:
        if event["event"] == "step":
            self._node = None
            print(step_line(event), file=sys.stderr, flush=True)
        elif event["event"] == "progress" and event["node"] != self._node:
            self._node = event["node"]
            print(f"     {event['case']}: {self._node}", file=sys.stderr, flush=True)


@contextmanager
def _live() -> Iterator[Listener]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def hear(event: dict[str, Any]) -> None:
            if event["event"] == "step":
                progress.console.print(escape(step_line(event)), highlight=False)
            elif event["event"] == "begin":
                progress.reset(task, total=None, description=escape(f"{event['case']}: {event['name']}"))
            else:
                label = escape(f"{event['case']}: {event['node']}")
                progress.update(task, total=100.0, completed=event["percentage"], description=label)

        yield hear
