"""One job on one ComfyUI: submitted, followed to its end, its files put in place, its answer made."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Collection
from pathlib import Path

from ltxops.errors import CheckFailed, LtxopsError
from ltxops.generation.comfyui import (
    DeadlineExceeded,
    Event,
    Execution,
    Graph,
    PromptRejected,
    ServiceDown,
)
from ltxops.wrapper import envelope
from ltxops.wrapper.backends import Backend
from ltxops.wrapper.envelope import Marks, Outcome
from ltxops.wrapper.outputs import OutputsMissing, collect_outputs
from ltxops.wrapper.refusals import Refused, rejected_by_comfyui
from ltxops.wrapper.requests import JobRequest, fill_random_ints
from ltxops.wrapper.schema import JobStatus, OutputItem

log = logging.getLogger("ltxops.wrapper")

#: How long it may take to tell ComfyUI that nobody waits for a job any more.
CANCEL_SECONDS = 2.0
#: The input that makes a node run although its result is in ComfyUI's cache.
RUN_INPUT = "ltxops_run"
RESTARTED = "the wrapper restarted while the job was {}; send it again under a new request_id"


class Job:
    """One request on its way. `outcome` is what everybody who asked for it waits for.

    `task` brings the job to its outcome and is never cancelled; `work` is its wait for ComfyUI.
    """

    def __init__(self, request: JobRequest, arrived: float) -> None:
        self.request = request
        self.marks = Marks(arrived)
        self.status: JobStatus = "queued"
        self.accepted = False
        self.prompt_id: str | None = None
        self.started_at = time.time()
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self.work: asyncio.Task[Execution] | None = None
        self.execution: Execution | None = None
        self.stopped = False

    def stop(self) -> None:
        """Give the job up: its wait for ComfyUI ends now, and no other begins."""
        self.stopped = True
        if self.work is not None:
            self.work.cancel()

    def observe(self, event: Event, on_submitted: Callable[[str], None]) -> None:
        """Take in what ComfyUI says of the job. `on_submitted` gets the prompt id of each run."""
        if event.kind == "submitted":
            self.prompt_id = str(event.data["prompt_id"])
            self.marks.submitted = self.marks.submitted or time.monotonic()
            on_submitted(self.prompt_id)
        elif event.kind == "execution_start":
            self.marks.started, self.started_at = self.marks.started or time.monotonic(), time.time()
            self.status = "generating"


async def generate(
    job: Job,
    backend: Backend,
    output_directory: Path,
    *,
    deadline_seconds: float,
    on_submitted: Callable[[str], None],
) -> Outcome:
    """Run `job` on `backend` and return its answer, whatever the end. `job.stop()` gives the job up.

    Raises Refused when ComfyUI did not take the job: nothing was done then.
    """
    backend.active += 1
    try:
        execution, output = await _produce(job, backend, output_directory, deadline_seconds, on_submitted)
        reason, http_status = execution.failure, envelope.GENERATION_FAILED
        if reason is None:
            response = envelope.comfyui_response(execution, job.started_at, None)
            return envelope.completed(job.request.id, response, output, job.marks.timings(time.monotonic()))
    except PromptRejected as rejection:
        if job.prompt_id is None:
            raise rejected_by_comfyui(rejection) from rejection
        reason, http_status = str(rejection), envelope.GENERATION_FAILED
    except DeadlineExceeded as error:
        reason, http_status = str(error), envelope.GENERATION_FAILED
        await _give_up(backend, error.prompt_id)
    except LtxopsError as error:
        if job.prompt_id is None:
            status = 503 if isinstance(error, ServiceDown) else 502
            raise Refused(status, "backend_down", f"no ComfyUI takes jobs now: {error}") from error
        reason, http_status = str(error), envelope.BACKEND_LOST
    finally:
        backend.active -= 1
    response = envelope.comfyui_response(job.execution, job.started_at, reason) if job.execution else {}
    timings = job.marks.timings(time.monotonic())
    return envelope.failed(job.request.id, reason, http_status, response, timings)


async def _produce(
    job: Job,
    backend: Backend,
    output_directory: Path,
    deadline_seconds: float,
    on_submitted: Callable[[str], None],
) -> tuple[Execution, list[OutputItem]]:
    """Return how the job ended in ComfyUI, and its files where it did not fail.

    A graph that ComfyUI has just run is answered from its cache, even when the files have been deleted since:
    the nodes that made them then run once more.
    """
    graph = fill_random_ints(job.request.graph)
    begun, remaining_seconds, anew = time.monotonic(), deadline_seconds, False
    while True:
        execution = job.execution = await _follow(job, backend, graph, remaining_seconds, on_submitted)
        if execution.failure is not None:
            return execution, []
        job.status = "processing"
        try:
            output = await collect_outputs(
                backend.client, execution.outputs, output_directory, job.request.id
            )
        except OutputsMissing as missing:
            # A node that another one made while it ran has no place in the graph.
            if anew or not missing.nodes <= graph.keys():
                raise
            graph, anew = run_anew(graph, missing.nodes), True
            job.execution, job.status = None, "queued"
            remaining_seconds = round(max(0.0, deadline_seconds - (time.monotonic() - begun)), 1)
            log.info("job %s: nodes %s run once more", job.request.id, ", ".join(sorted(missing.nodes)))
        else:
            return execution, output


def run_anew(graph: Graph, nodes: Collection[str]) -> Graph:
    """Return a copy of `graph` in which `nodes`, and what takes from them, are not answered from the cache.

    ComfyUI tells a node from a cached one by all inputs it is given, while its validation and the node itself
    only see those that the node declares (ComfyUI comfy_execution/caching.py, execution.py).
    """
    return {
        node_id: {**node, "inputs": {**node.get("inputs", {}), RUN_INPUT: uuid.uuid4().hex}}
        if node_id in nodes
        else node
        for node_id, node in graph.items()
    }


async def _follow(
    job: Job, backend: Backend, graph: Graph, deadline_seconds: float, on_submitted: Callable[[str], None]
) -> Execution:
    """Wait for the end of the job in ComfyUI; raises CheckFailed when the wrapper is stopped meanwhile."""
    if job.stopped:
        raise CheckFailed(RESTARTED.format("with ComfyUI"))

    def observe(event: Event) -> None:
        job.observe(event, on_submitted)
        if event.kind == "submitted":
            log.info("job %s is with %s as prompt %s", job.request.id, backend.url, job.prompt_id)

    job.work = asyncio.create_task(
        backend.client.run(graph, on_event=observe, deadline_seconds=deadline_seconds)
    )
    try:
        execution = await job.work
    except asyncio.CancelledError:
        if job.prompt_id is not None:
            await _give_up(backend, job.prompt_id)
        raise CheckFailed(RESTARTED.format("with ComfyUI")) from None
    finally:
        job.marks.ended = time.monotonic()
    measured = envelope.generation_seconds(execution.history)
    if measured is not None:
        job.marks.generation_seconds = (job.marks.generation_seconds or 0.0) + measured
    return execution


async def _give_up(backend: Backend, prompt_id: str) -> None:
    """Take a job that nobody waits for off the GPU, if ComfyUI still listens."""
    with contextlib.suppress(LtxopsError, asyncio.TimeoutError):
        await asyncio.wait_for(backend.client.cancel(prompt_id), CANCEL_SECONDS)
