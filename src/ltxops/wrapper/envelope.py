"""What the wrapper answers about a job, put together from what ComfyUI said. No I/O."""

from dataclasses import dataclass, field
from typing import Any

from ltxops.generation.comfyui import Execution
from ltxops.wrapper.schema import Envelope, JobStatus, OutputItem, Timings

#: HTTP status of a finished job's answer. A failure is not 200: PyWorker counts each 200 of its benchmark
#: as a success (package vastai 1.9.1, BenchmarkResult.is_successful), so a host that fails fast would score
#: best. A graph that failed would fail again, and 4xx is what Vast's client does not send again, unlike 5xx.
COMPLETED, GENERATION_FAILED, WRAPPER_FAILED, BACKEND_LOST, NOT_DELIVERED = 200, 422, 500, 502, 502
#: Of a request that is refused, or a job that is not begun, because its result could not be saved.
NO_ROOM = 507

_MESSAGES: dict[JobStatus, str] = {
    "queued": "Waiting for a free ComfyUI.",
    "generating": "ComfyUI is generating.",
    "processing": "Generation is done; its outputs are being put in place.",
    "completed": "Processing complete.",
    "failed": "Failed.",
    "cancelled": "Cancelled.",
}


@dataclass
class Marks:
    """When each part of a job began, in seconds of the monotonic clock; None while it has not.

    `generation_seconds` is ComfyUI's own measure where it gave one.
    """

    arrived: float
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    generation_seconds: float | None = None

    def timings(self, now: float) -> Timings:
        """Return the parts in milliseconds: they add up to `total`, and one not reached took none."""
        submitted = now if self.submitted is None else self.submitted
        ended = now if self.ended is None else self.ended
        run = max(0.0, ended - submitted)
        measured = self.generation_seconds
        if measured is None:
            measured = 0.0 if self.started is None else ended - self.started
        generation = min(run, max(0.0, measured))
        parts = (run - generation, submitted - self.arrived, generation, now - ended, now - self.arrived)
        queued, preprocess, generation, postprocess, total = (round(1000 * part, 1) for part in parts)
        return Timings(
            queued=queued, preprocess=preprocess, generation=generation, postprocess=postprocess, total=total
        )


@dataclass
class Outcome:
    """The answer that everybody who waits for a job gets."""

    http_status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def generation_seconds(history: dict[str, Any]) -> float | None:
    """Return how long ComfyUI says a job ran, from the timestamps (milliseconds) of its history entry."""
    stamps: dict[str, float] = {}
    for message in (history.get("status") or {}).get("messages") or []:
        kind, data = message
        if isinstance(data, dict) and isinstance(data.get("timestamp"), (int, float)):
            stamps[str(kind)] = data["timestamp"]
    start = stamps.get("execution_start")
    ends = [
        stamps[f"execution_{end}"]
        for end in ("success", "error", "interrupted")
        if f"execution_{end}" in stamps
    ]
    return None if start is None or not ends else max(0.0, (ends[0] - start) / 1000)


def comfyui_response(execution: Execution | None, started_at: float, reason: str | None) -> dict[str, Any]:
    """Return ComfyUI's part of the envelope: nothing where ComfyUI has not had the job.

    `started_at` is the wall clock at the start of the execution, in seconds: progress is told relative to it.
    """
    if execution is None:
        return {}
    details: dict[str, Any] = {
        "prompt_id": execution.prompt_id,
        "nodes_executed": execution.nodes_executed,
        "progress_updates": [
            {**update, "time": max(0.0, update["time"] - started_at)} for update in execution.progress_updates
        ],
        "completed": reason is None,
        "error": reason,
    }
    if execution.node_errors:
        details["node_errors"] = execution.node_errors
    history = {execution.prompt_id: execution.history} if execution.history else {}
    return {**history, "execution_details": details}


def completed(job_id: str, response: dict[str, Any], output: list[OutputItem], timings: Timings) -> Outcome:
    """Return the answer of a job that ran to its end."""
    left_out = response["execution_details"].get("node_errors")
    message = _MESSAGES["completed"]
    if left_out:
        message += f" ComfyUI left out the branches of nodes {', '.join(sorted(left_out))}: see node_errors."
    return _outcome(
        COMPLETED,
        Envelope(
            id=job_id,
            message=message,
            status="completed",
            comfyui_response=response,
            output=output,
            timings=timings,
        ),
    )


def failed(
    job_id: str,
    reason: str,
    http_status: int,
    response: dict[str, Any] | None = None,
    timings: Timings | None = None,
    output: list[OutputItem] | None = None,
) -> Outcome:
    """Return the answer of a job that was accepted and did not end well; `reason` is one sentence.

    `output` has the files of one that failed only after they were made.
    """
    return _outcome(
        http_status,
        Envelope(
            id=job_id,
            message=reason,
            status="failed",
            comfyui_response=response or {},
            output=output or [],
            timings=timings or {},
        ),
    )


def cancelled(job_id: str, response: dict[str, Any], timings: Timings) -> Outcome:
    """Return the answer of a job that somebody cancelled; 4xx, so that nobody sends it again by itself."""
    return _outcome(
        GENERATION_FAILED,
        Envelope(
            id=job_id,
            message=_MESSAGES["cancelled"],
            status="cancelled",
            comfyui_response=response,
            timings=timings,
        ),
    )


def unfinished(job_id: str, status: JobStatus) -> dict[str, Any]:
    """Return what there is to say of a job that waits or runs."""
    return Envelope(id=job_id, message=_MESSAGES[status], status=status).model_dump()


def sentence(status: JobStatus) -> str:
    """Return a sentence about a status."""
    return _MESSAGES[status]


def _outcome(http_status: int, envelope: Envelope) -> Outcome:
    body = envelope.model_dump()
    # A url only where there is something to fetch under it.
    body["output"] = [
        {name: value for name, value in item.items() if name != "url" or value is not None}
        for item in body["output"]
    ]
    return Outcome(http_status, body)
