"""Jobs that an earlier process left unfinished: where each one is now."""

import asyncio
from dataclasses import dataclass

from ltxops.generation.comfyui import Execution, ServiceDown
from ltxops.generation.execution import in_queue
from ltxops.wrapper.backends import Backend, Backends
from ltxops.wrapper.database import LeftOver
from ltxops.wrapper.failures import BackendLost

#: Seconds between questions to a ComfyUI that does not answer yet.
ASK_SECONDS = 0.5


@dataclass(frozen=True)
class Running:
    """A job that a ComfyUI has already."""

    backend: Backend
    execution: Execution


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
            known = await _knows(backend, job.prompt_id)
            break
        except ServiceDown:
            await asyncio.sleep(ASK_SECONDS)
    if known:
        return Running(backend, Execution(job.prompt_id, 0))
    if not job.submitted:
        return None
    raise BackendLost(
        f"ComfyUI at {job.backend} no longer knows the job, which it had as prompt {job.prompt_id}: it was "
        "restarted, too, or its queue or history was cleared"
    )


async def _knows(backend: Backend, prompt_id: str) -> bool:
    if await backend.client.history(prompt_id) is not None:
        return True
    if in_queue(await backend.client.queue(), prompt_id):
        return True
    # It can move from the queue to the history between the two questions.
    return await backend.client.history(prompt_id) is not None
