"""What a running job tells: entries of the history, WebSocket messages in ComfyUI's order and shapes."""

import time
from collections.abc import Callable
from typing import Any

from ltxops.embedded.comfyui.jobs import Job

#: Sends (type, data) to one client, or to all where the client is None.
Send = Callable[[str, dict[str, Any], str | None], None]


class Reporter:
    """Speaks for one job. A job without a client id tells no one of its progress, as in ComfyUI."""

    def __init__(self, job: Job, send: Send) -> None:
        self.job = job
        self._send = send
        self.messages: list[list[Any]] = []
        self.running: str | None = None
        self._states: dict[str, dict[str, Any]] = {}

    def event(self, kind: str, data: dict[str, Any], *, broadcast: bool = False) -> None:
        """Report a step of the job itself, such as execution_start; the history keeps these."""
        data = {**data, "prompt_id": self.job.prompt_id, "timestamp": int(time.time() * 1000)}
        self.messages.append([kind, data])
        if broadcast:
            self._send(kind, data, None)
        else:
            self._to_client(kind, data)

    def started(self, node_id: str) -> None:
        """A node begins."""
        self.running = node_id
        self._state(node_id, "running", 0.0, 1.0)
        self._to_client("executing", {"node": node_id, "display_node": node_id, **self._id})

    def stepped(self, node_id: str, done: int, total: int) -> None:
        """A sampler took a step."""
        self._state(node_id, "running", float(done), float(total))
        self._to_client("progress", {"value": done, "max": total, **self._id, "node": node_id})

    def shown(self, node_id: str, output: dict[str, Any]) -> None:
        """A node has something to show."""
        data = {"node": node_id, "display_node": node_id, "output": output, **self._id}
        self._to_client("executed", data)

    def finished(self, node_id: str) -> None:
        """A node is done, or came from cache."""
        total = self._states.get(node_id, {}).get("max", 1.0)
        self._state(node_id, "finished", total, total)

    def ended(self) -> None:
        """No node runs any more."""
        self._to_client("executing", {"node": None, **self._id})

    @property
    def _id(self) -> dict[str, str]:
        return {"prompt_id": self.job.prompt_id}

    def _state(self, node_id: str, state: str, value: float, total: float) -> None:
        """Send the state of every node that has one; a client draws its progress bars from it."""
        self._states[node_id] = {
            "value": value,
            "max": total,
            "state": state,
            "node_id": node_id,
            **self._id,
            "display_node_id": node_id,
            "parent_node_id": None,
            "real_node_id": node_id,
        }
        self._to_client("progress_state", {**self._id, "nodes": dict(self._states)})

    def _to_client(self, kind: str, data: dict[str, Any]) -> None:
        if self.job.client_id is not None:
            self._send(kind, data, self.job.client_id)
