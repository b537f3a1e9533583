"""Jobs that an earlier process left unfinished: where each one is now."""

import asyncio
from dataclasses import dataclass, replace

from ltxops.generation.comfyui import Execution, ServiceDown
from ltxops.generation.execution import in_queue
from ltxops.wrapper.backends import Backend, Backends
from ltxops.wrapper.database import LeftOver
from ltxops.wrapper.failures import BackendLost

#: Seconds between questions to a ComfyUI that does not answer yet.
ASK_SECONDS = 0.5


@dataclass(frozen=True)
class Running:
    """A job that a ComfyUI has already; `begun` when it has been seen at work on it."""

    backend: Backend
    execution: Execution
    begun: bool = False


async def locate(backends: Backends, job: LeftOver) -> Running | None:
    """Return where ComfyUI has the job, waiting, running or ended; None when it was never submitted.

    Waits for the ComfyUI that it was given to. Raises BackendLost when that had the job and has not any more.
    """
    if job.prompt_id is None:
        return None
    backend = backends.find(job.backend)
    if backend is None:
        if not job.submitted:
            return None
        raise BackendLost(f"the wrapper was restarted without {job.backend}, which had the job")
    while True:
        try:
            running = await _find(backend, job.prompt_id)
            break
        except ServiceDown:
            await asyncio.sleep(ASK_SECONDS)
    if running is not None or not job.submitted:
        return running
    raise BackendLost(
        f"ComfyUI at {job.backend} no longer knows the job, which it had as prompt {job.prompt_id}: it was "
        "restarted, too, or its queue or history was cleared"
    )


async def _find(backend: Backend, prompt_id: str) -> Running | None:
    running = Running(backend, Execution(prompt_id, 0))
    if await backend.client.history(prompt_id) is not None:
        return running
    queue = await backend.client.queue()
    if in_queue(queue, prompt_id):
        return replace(running, begun=in_queue({"queue_running": queue.get("queue_running")}, prompt_id))
    # It can move from the queue to the history between the two questions.
    return None if await backend.client.history(prompt_id) is None else running
