"""One job on one ComfyUI: submitted, followed to its end, its files put in place, its answer made."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from ltxops.errors import CheckFailed, LtxopsError
from ltxops.generation.comfyui import (
    DeadlineExceeded,
    Event,
    Execution,
    PromptRejected,
    ServiceDown,
)
from ltxops.wrapper import envelope
from ltxops.wrapper.backends import Backend
from ltxops.wrapper.envelope import Marks, Outcome
from ltxops.wrapper.outputs import collect_outputs
from ltxops.wrapper.refusals import Refused, rejected_by_comfyui
from ltxops.wrapper.requests import JobRequest, fill_random_ints
from ltxops.wrapper.schema import JobStatus

log = logging.getLogger("ltxops.wrapper")

#: How long it may take to tell ComfyUI that nobody waits for a job any more.
CANCEL_SECONDS = 2.0
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

    def observe(self, event: Event, on_submitted: Callable[[str], None]) -> None:
        """Take in what ComfyUI says of the job. `on_submitted` gets the prompt id, once."""
        if event.kind == "submitted":
            self.prompt_id = str(event.data["prompt_id"])
            self.marks.submitted = time.monotonic()
            on_submitted(self.prompt_id)
        elif event.kind == "execution_start":
            self.marks.started, self.started_at = time.monotonic(), time.time()
            self.status = "generating"


async def generate(
    job: Job,
    backend: Backend,
    output_directory: Path,
    *,
    deadline_seconds: float,
    on_submitted: Callable[[str], None],
) -> Outcome:
    """Run `job` on `backend` and return its answer, whatever the end. Cancel `job.work` to give the job up.

    Raises Refused when ComfyUI did not take the job: nothing was done then.
    """
    execution: Execution | None = None
    backend.active += 1
    try:
        execution = await _follow(job, backend, deadline_seconds, on_submitted)
        reason, http_status = execution.failure, envelope.GENERATION_FAILED
        if reason is None:
            job.status = "processing"
            output = await collect_outputs(
                backend.client, execution.outputs, output_directory, job.request.id
            )
            response = envelope.comfyui_response(execution, job.started_at, None)
            return envelope.completed(job.request.id, response, output, job.marks.timings(time.monotonic()))
    except PromptRejected as rejection:
        raise rejected_by_comfyui(rejection) from rejection
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
    response = envelope.comfyui_response(execution, job.started_at, reason) if execution else {}
    timings = job.marks.timings(time.monotonic())
    return envelope.failed(job.request.id, reason, http_status, response, timings)


async def _follow(
    job: Job, backend: Backend, deadline_seconds: float, on_submitted: Callable[[str], None]
) -> Execution:
    """Wait for the end of the job in ComfyUI; raises CheckFailed when the wrapper is stopped meanwhile."""
    graph = fill_random_ints(job.request.graph)

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
    job.marks.generation_seconds = envelope.generation_seconds(execution.history)
    return execution


async def _give_up(backend: Backend, prompt_id: str) -> None:
    """Take a job that nobody waits for off the GPU, if ComfyUI still listens."""
    with contextlib.suppress(LtxopsError, asyncio.TimeoutError):
        await asyncio.wait_for(backend.client.cancel(prompt_id), CANCEL_SECONDS)
