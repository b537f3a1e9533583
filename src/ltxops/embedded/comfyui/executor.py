"""Runs one graph: node by node, what is unchanged since the graph before taken from cache."""

import traceback
from collections.abc import Sequence
from typing import Any

from ltxops.embedded.comfyui.catalog import UPLOADS, recorded, upload_path
from ltxops.embedded.comfyui.graph import is_link, run_order, signatures
from ltxops.embedded.comfyui.jobs import Job, Outcome
from ltxops.embedded.comfyui.nodes import find_node
from ltxops.embedded.comfyui.nodes.context import Context, Interrupted, Result
from ltxops.embedded.comfyui.options import Folders
from ltxops.embedded.comfyui.reporter import Reporter
from ltxops.embedded.comfyui.validate import type_name


class Executor:
    """Runs jobs one after the other and keeps the results of the last one's nodes, as ComfyUI does."""

    def __init__(self, folders: Folders, seconds_per_step: float) -> None:
        self._folders = folders
        self._seconds_per_step = seconds_per_step
        self._cache: dict[str, Result] = {}

    def forget(self) -> None:
        """Empty the cache, so that everything runs again."""
        self._cache = {}

    def run(self, job: Job, reporter: Reporter) -> Outcome:
        """Run a job to its end, whatever that is: an error of a node ends the job and is not raised."""
        reporter.event("execution_start", {})
        outputs: dict[str, Any] = {}
        executed: list[str] = []
        node_id = job.outputs[0]
        inputs: dict[str, Any] = {}
        try:
            keys = signatures(job.graph, job.outputs, lambda node_id: self._file_state(job, node_id))
            self._cache = {key: self._cache[key] for key in keys.values() if key in self._cache}
            known = [node_id for node_id, key in keys.items() if key in self._cache]
            reporter.event("execution_cached", {"nodes": known})
            for node_id in run_order(job.graph, job.outputs, lambda n: _is_output(job, n), set(known)):
                inputs = {}
                result = self._cache.get(keys[node_id])
                if result is None:
                    if job.cancel.is_set():
                        raise Interrupted
                    reporter.started(node_id)
                    inputs = self._resolved(job, node_id, keys)
                    class_type = job.graph[node_id]["class_type"]
                    result = find_node(class_type)(self._context(job, reporter, node_id), inputs)
                    self._cache[keys[node_id]] = result
                    executed.append(node_id)
                if result.shown is not None:
                    outputs[node_id] = result.shown
                    reporter.shown(node_id, result.shown)
                reporter.finished(node_id)
        except Interrupted:
            reporter.event(
                "execution_interrupted", {**_where(job, node_id), "executed": executed}, broadcast=True
            )
            return Outcome(False, outputs, _meta(outputs), reporter.messages)
        # Whatever a node stumbles over fails its job; the engine lives on for the next one.
        except Exception as error:  # noqa: BLE001
            reporter.event("execution_error", _error(job, node_id, executed, error, inputs, outputs))
            return Outcome(False, outputs, _meta(outputs), reporter.messages)
        reporter.event("execution_success", {})
        return Outcome(True, outputs, _meta(outputs), reporter.messages)

    def _file_state(self, job: Job, node_id: str) -> str:
        """Return what tells an uploaded file that a node reads from a later one of the same name."""
        node = job.graph[node_id]
        if node["class_type"] not in UPLOADS:
            return ""
        path = upload_path(self._folders, node["inputs"].get(UPLOADS[node["class_type"]][0]))
        return f"{path.stat().st_mtime_ns} {path.stat().st_size}" if path else "missing"

    def _resolved(self, job: Job, node_id: str, keys: dict[str, str]) -> dict[str, Any]:
        """Return a node's inputs with every link replaced by what it leads to."""
        return {
            name: self._cache[keys[value[0]]].outputs[int(value[1])] if is_link(value) else value
            for name, value in job.graph[node_id]["inputs"].items()
        }

    def _context(self, job: Job, reporter: Reporter, node_id: str) -> Context:
        def check() -> None:
            if job.cancel.is_set():
                raise Interrupted

        def step(done: int, total: int) -> None:
            if job.cancel.wait(self._seconds_per_step) if self._seconds_per_step else job.cancel.is_set():
                raise Interrupted
            reporter.stepped(node_id, done, total)

        return Context(self._folders, job.graph, job.extra, check, step)


def _is_output(job: Job, node_id: str) -> bool:
    return bool(recorded()[job.graph[node_id]["class_type"]]["output_node"])


def _where(job: Job, node_id: str) -> dict[str, Any]:
    return {"node_id": node_id, "node_type": job.graph[node_id]["class_type"]}


def _meta(outputs: dict[str, Any]) -> dict[str, Any]:
    """Return who made each output, as the history keeps it."""
    return {
        node_id: {"node_id": node_id, "display_node": node_id, "parent_node": None, "real_node_id": node_id}
        for node_id in outputs
    }


def _error(
    job: Job,
    node_id: str,
    executed: Sequence[str],
    error: Exception,
    inputs: dict[str, Any],
    outputs: dict[str, Any],
) -> dict[str, Any]:
    """Return what a client hears of a node that failed."""
    return {
        **_where(job, node_id),
        "executed": list(executed),
        "exception_message": f"{error}\n",
        "exception_type": type_name(error),
        "traceback": traceback.format_tb(error.__traceback__),
        "current_inputs": {name: [str(value)] for name, value in inputs.items()},
        "current_outputs": list(outputs),
    }
