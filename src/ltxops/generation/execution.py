"""What is known about one job of ComfyUI, and how each message changes it: decisions only, no network.

The shapes are those ComfyUI sends over `/ws` and answers under `/history/<prompt id>`. They drift between
versions, so what is not understood is passed over, and `/history` has the last word on how a job ended.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ltxops.errors import LtxopsError

#: A workflow in ComfyUI's API format: node id → {"class_type": …, "inputs": {…}}.
Graph = dict[str, Any]

#: Where ComfyUI and its save nodes list files. SaveVideo uses `images`; others use a key of their own.
OUTPUT_KEYS = ("images", "videos", "gifs", "audio")

#: Messages after which nothing more happens to a job.
FINAL_KINDS = frozenset({"execution_success", "execution_error", "execution_interrupted"})

_SHOWN_ERRORS = 3


@dataclass(frozen=True)
class Event:
    """One message about a job. `percentage` is that of the node that is running, 0 to 100."""

    kind: str
    node: str | None = None
    value: float | None = None
    max: float | None = None
    percentage: float | None = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OutputFile:
    """A file that a job made, as `/view` wants it named. `output_type` is the key it was listed under."""

    filename: str
    subfolder: str
    type: str
    node_id: str
    output_type: str


class PromptRejected(LtxopsError):
    """ComfyUI refused a workflow. `status` and `body` are its own answer, to be passed on as they are."""

    def __init__(self, message: str, status: int, body: dict[str, Any]) -> None:
        super().__init__(message)
        self.status = status
        self.body = body


@dataclass
class Execution:
    """A job from its submission to its end.

    `node_errors` is not empty when ComfyUI accepted the workflow only in part: the branches it names did
    not run. `error` is the data of ComfyUI's `execution_error` or `execution_interrupted` message.
    `progress_updates` holds one entry a change: seconds since the epoch, value, max and percentage.
    """

    prompt_id: str
    number: int
    node_errors: dict[str, Any] = field(default_factory=dict)
    history: dict[str, Any] = field(default_factory=dict)
    nodes_executed: list[str] = field(default_factory=list)
    nodes_cached: list[str] = field(default_factory=list)
    progress_updates: list[dict[str, float]] = field(default_factory=list)
    outputs: list[OutputFile] = field(default_factory=list)
    status_str: str = ""
    completed: bool = False
    error: dict[str, Any] | None = None
    last_node: str | None = None
    finished: bool = False
    _progress: dict[str, tuple[float, float]] = field(default_factory=dict, repr=False)

    @property
    def failure(self) -> str | None:
        """One sentence on why the job did not succeed, or None."""
        if self.completed and self.status_str == "success":
            return None
        if self.error is None:
            return f"the job ended with the status {self.status_str!r} and no reason was given"
        where = f"node {self.error.get('node_id')} ({self.error.get('node_type')})"
        if "exception_type" not in self.error:
            return f"the job was interrupted at {where}"
        message = " ".join(str(self.error.get("exception_message", "")).split())
        return f"{where} failed: {self.error['exception_type']}: {message}"

    def observe(self, message: dict[str, Any], now: float) -> list[Event]:
        """Take in one WebSocket message, received at `now` (seconds since the epoch); returns what it says
        about this job."""
        kind, data = message.get("type"), message.get("data")
        if not isinstance(kind, str) or not isinstance(data, dict) or data.get("prompt_id") != self.prompt_id:
            return []
        if kind == "progress_state":
            return list(self._observe_state(data, now))
        node = data.get("node", data.get("node_id"))
        node = str(node) if node is not None else None
        if kind == "progress" and node is not None:
            event = self._advance(kind, node, data, now)
            return [event] if event else []
        if kind == "executing" and node is not None:
            self.last_node = node
            if node not in self.nodes_executed:
                self.nodes_executed.append(node)
        elif kind == "execution_cached":
            self.nodes_cached = [str(item) for item in data.get("nodes") or []]
        if kind in FINAL_KINDS or (kind == "executing" and node is None):
            self.finished = True
        return [Event(kind, node, data=data)]

    def _observe_state(self, data: dict[str, Any], now: float) -> Iterator[Event]:
        """Each `progress_state` repeats all nodes seen so far; only what changed is passed on."""
        nodes = data.get("nodes")
        for node, state in (nodes if isinstance(nodes, dict) else {}).items():
            if isinstance(state, dict) and (event := self._advance("progress", str(node), state, now)):
                yield event

    def _advance(self, kind: str, node: str, data: dict[str, Any], now: float) -> Event | None:
        value, top = data.get("value"), data.get("max")
        if not isinstance(value, (int, float)) or not isinstance(top, (int, float)) or top <= 0:
            return None
        if self._progress.get(node, (0.0, top)) == (value, top):
            return None
        self._progress[node] = (value, top)
        percentage = round(100.0 * value / top, 2)
        self.progress_updates.append({"time": now, "value": value, "max": top, "percentage": percentage})
        return Event(kind, node, value, top, percentage, data)

    def conclude(self, history: dict[str, Any]) -> None:
        """Take over how the job ended from its entry in `/history`."""
        status = history.get("status") or {}
        self.history = history
        self.finished = True
        self.status_str = str(status.get("status_str", ""))
        self.completed = bool(status.get("completed"))
        self.outputs = output_files(history.get("outputs") or {})
        for kind, data in status.get("messages") or []:
            if kind in ("execution_error", "execution_interrupted"):
                self.error = data
                self.last_node = str(data.get("node_id"))


def output_files(outputs: dict[str, Any]) -> list[OutputFile]:
    """Return the files of a history entry's `outputs`, each once even if it is listed under two keys."""
    found: dict[tuple[str, str, str, str], OutputFile] = {}
    for node_id, lists in outputs.items():
        for key in OUTPUT_KEYS:
            for item in lists.get(key) or []:
                if isinstance(item, dict) and "filename" in item:
                    name, folder = str(item["filename"]), str(item.get("subfolder", ""))
                    kind = str(item.get("type", "output"))
                    found.setdefault(
                        (node_id, kind, folder, name), OutputFile(name, folder, kind, node_id, key)
                    )
    return list(found.values())


def in_queue(queue: dict[str, Any], prompt_id: str) -> bool:
    """Say whether `GET /queue` lists the job, waiting or running (`[number, prompt id, …]` an entry)."""
    entries = [*(queue.get("queue_running") or []), *(queue.get("queue_pending") or [])]
    return any(isinstance(entry, list) and prompt_id in entry[:2] for entry in entries)


def describe_rejection(body: dict[str, Any]) -> str:
    """Return one line that says what ComfyUI refused: the nodes, their inputs and the values seen."""
    parts: list[str] = []
    for node_id, report in (body.get("node_errors") or {}).items():
        for error in report.get("errors") or []:
            parts.append(f"node {node_id} ({report.get('class_type')}): {_describe_error(error)}")
    if not parts:
        error = body.get("error")
        if isinstance(error, dict):
            parts.append(" ".join(str(error.get(key) or "") for key in ("message", "details")).strip())
        else:
            parts.append(json.dumps(error if error is not None else body)[:500])
    more = len(parts) - _SHOWN_ERRORS
    return "; ".join(parts[:_SHOWN_ERRORS]) + (f"; and {more} more" if more > 0 else "")


def _describe_error(error: dict[str, Any]) -> str:
    info = error.get("extra_info") or {}
    if error.get("type") == "value_not_in_list":
        # ComfyUI's own text lists every choice there is, which on a full host is a screen of file names.
        name, value = info.get("input_name"), info.get("received_value")
        where = "; is the file in its folder under models/?" if _looks_like_file(value) else ""
        return f"{name} {value!r} is not among the choices ComfyUI offers{where}"
    return ", ".join(str(error[key]) for key in ("message", "details") if error.get(key))


def _looks_like_file(value: object) -> bool:
    return isinstance(value, str) and value.endswith((".safetensors", ".ckpt", ".pt", ".pth", ".gguf"))
