"""The steps of a check that is reported step by step: which one runs, how long it took, how it ended."""

import time
from collections.abc import Callable
from typing import Any

#: What hears of each thing that happens: a JSON object with the key "event".
Listener = Callable[[dict[str, Any]], None]


class Steps:
    """A list of steps, at most one of them open. `records` is what goes into the report."""

    def __init__(self, case: str, tell: Listener) -> None:
        self.records: list[dict[str, Any]] = []
        self._case, self._tell = case, tell
        self._open: tuple[str, float] | None = None

    @property
    def current(self) -> str:
        """The name of the open step, or of the last one."""
        return self._open[0] if self._open else self.records[-1]["name"] if self.records else ""

    def begin(self, name: str) -> None:
        """Open a step; one that is still open is closed as passed."""
        if self._open:
            self.passed()
        self._open = (name, time.monotonic())
        self._tell({"event": "begin", "case": self._case, "name": name})

    def passed(self, detail: str = "") -> None:
        """Close the open step as passed."""
        self._close(True, detail)

    def failed(self, detail: str) -> None:
        """Close the open step as failed."""
        self._close(False, detail)

    def progress(self, node: str, percentage: float) -> None:
        """Pass on how far the running node is, 0 to 100."""
        self._tell({"event": "progress", "case": self._case, "node": node, "percentage": percentage})

    def _close(self, ok: bool, detail: str) -> None:
        if self._open is None:
            return
        name, began = self._open
        self._open = None
        record = {"name": name, "ok": ok, "seconds": round(time.monotonic() - began, 3), "detail": detail}
        self.records.append(record)
        self._tell({"event": "step", "case": self._case, **record})
