"""The queue of submitted graphs and the history of those that ran, safe to use from every thread."""

import heapq
import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from ltxops.embedded.comfyui.validate import MutableGraph

#: Older entries of the history give way beyond this many (ComfyUI's own number).
HISTORY_SIZE = 10_000


@dataclass(order=True)
class Job:
    """One submitted graph. `number` orders the queue; `cancel` is set to interrupt it."""

    number: float
    prompt_id: str = field(compare=False)
    graph: MutableGraph = field(compare=False)
    extra: dict[str, Any] = field(compare=False)
    outputs: list[str] = field(compare=False)
    cancel: threading.Event = field(compare=False, default_factory=threading.Event)

    @property
    def client_id(self) -> str | None:
        """The WebSocket client that hears of this job."""
        client = self.extra.get("client_id")
        return client if isinstance(client, str) else None

    def listed(self) -> list[Any]:
        """Return the job as `/queue` and `/history` show it."""
        return [self.number, self.prompt_id, self.graph, self.extra, self.outputs]


@dataclass(frozen=True)
class Outcome:
    """How a job ended: what its outputs show, who made them, and what happened in order."""

    succeeded: bool
    outputs: dict[str, Any]
    meta: dict[str, Any]
    messages: list[list[Any]]


class JobQueue:
    """Jobs in order of number, one running at a time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pending: list[Job] = []
        self._running: Job | None = None
        self._history: dict[str, dict[str, Any]] = {}
        self._next_number = 0
        self._closed = False

    def number(self, *, front: bool = False) -> float:
        """Return the next number; a job for the front of the queue gets it below zero."""
        with self._changed:
            number = self._next_number
            self._next_number += 1
            return -number if front else number

    def put(self, job: Job, tell: Callable[[], None]) -> None:
        """Queue a job; `tell` is called before it can be taken, so that what it says comes first."""
        with self._changed:
            heapq.heappush(self._pending, job)
            tell()
            self._changed.notify()

    def take(self) -> Job | None:
        """Wait for a job, make it the running one and return it; None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._pending)
            if self._closed:
                return None
            self._running = heapq.heappop(self._pending)
            return self._running

    def finish(self, job: Job, outcome: Outcome) -> None:
        """Move the running job to the history."""
        with self._changed:
            self._running = None
            while len(self._history) >= HISTORY_SIZE:
                del self._history[next(iter(self._history))]
            self._history[job.prompt_id] = {
                "prompt": job.listed(),
                "outputs": outcome.outputs,
                "status": {
                    "status_str": "success" if outcome.succeeded else "error",
                    "completed": outcome.succeeded,
                    "messages": outcome.messages,
                },
                "meta": outcome.meta,
            }

    def close(self) -> None:
        """Interrupt the running job and let nothing more start."""
        with self._changed:
            self._closed = True
            if self._running:
                self._running.cancel.set()
            self._changed.notify_all()

    def remaining(self) -> int:
        """Return how many jobs wait or run."""
        with self._changed:
            return len(self._pending) + (self._running is not None)

    def current(self) -> tuple[list[list[Any]], list[list[Any]]]:
        """Return copies of the running and the waiting jobs, as `/queue` lists them."""
        with self._changed:
            running = [self._running.listed()] if self._running else []
            return deepcopy(running), deepcopy([job.listed() for job in sorted(self._pending)])

    def interrupt(self, prompt_id: str | None) -> None:
        """Interrupt the running job, only if it is `prompt_id` where one is given."""
        with self._changed:
            if self._running and prompt_id in (None, self._running.prompt_id):
                self._running.cancel.set()

    def clear(self) -> None:
        """Drop every waiting job."""
        with self._changed:
            self._pending.clear()

    def delete(self, prompt_id: str) -> None:
        """Drop one waiting job, if it is there."""
        with self._changed:
            self._pending = [job for job in self._pending if job.prompt_id != prompt_id]
            heapq.heapify(self._pending)

    def history(self, max_items: int | None = None, offset: int = -1) -> dict[str, Any]:
        """Return the newest `max_items` jobs that ended, or those from number `offset` on, oldest first."""
        with self._changed:
            ids = list(self._history)
            if max_items is not None:
                start = offset if offset >= 0 else max(0, len(ids) - max_items)
                ids = ids[start : start + max_items]
            elif offset >= 0:
                ids = ids[offset:]
            return {prompt_id: self._history[prompt_id] for prompt_id in ids}

    def history_of(self, prompt_id: str) -> dict[str, Any]:
        """Return one job's entry under its id, or nothing."""
        with self._changed:
            return {prompt_id: self._history[prompt_id]} if prompt_id in self._history else {}

    def forget(self, prompt_id: str | None) -> None:
        """Remove one entry of the history, or all."""
        with self._changed:
            if prompt_id is None:
                self._history.clear()
            else:
                self._history.pop(prompt_id, None)
