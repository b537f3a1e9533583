"""One run of a graph in one ComfyUI: checked at once, given to a free one, followed to its end.

A graph is checked by whoever will run it, by submitting it. Where all are busy it is submitted behind
everything that waits there and taken back at once, so that a wrong graph is refused while others run. One
that was not caught in time has simply begun, and is followed. The prompt id is ours and recorded before each
submission: after a crash there is never a doubt whether ComfyUI has a job.
"""

import asyncio
import logging
import time
import uuid
from contextlib import suppress

from ltxops.errors import LtxopsError
from ltxops.generation.comfyui import (
    DeadlineExceeded,
    Event,
    Execution,
    Graph,
    PromptRejected,
    ServiceDown,
)
from ltxops.generation.execution import in_queue
from ltxops.timing import in_time
from ltxops.wrapper import envelope
from ltxops.wrapper.backends import Backend, Backends
from ltxops.wrapper.database import LeftOver
from ltxops.wrapper.failures import BackendLost, JobFailed
from ltxops.wrapper.faults import judge_error
from ltxops.wrapper.job import Job
from ltxops.wrapper.refusals import Refused, rejected_by_comfyui
from ltxops.wrapper.room import Room
from ltxops.wrapper.slots import Slots
from ltxops.wrapper.store import Store
from ltxops.wrapper.takeup import Running, locate

log = logging.getLogger("ltxops.wrapper")

#: A place behind every other in a queue of ComfyUI, which counts from 0.
LAST = 1e15
#: A job that ComfyUI may have finished while no wrapper ran is asked for at least this long.
TAKE_UP_SECONDS = 60.0


class Executor:
    """Runs graphs on the backends. `deadline_seconds` is from a job's arrival to the end of its last run."""

    def __init__(
        self, store: Store, backends: Backends, slots: Slots, room: Room, deadline_seconds: float
    ) -> None:
        self._store = store
        self._backends = backends
        self._slots = slots
        self._room = room
        self._deadline_seconds = deadline_seconds

    async def locate(self, job: Job, left: LeftOver) -> Running | None:
        """Return where a job of an earlier process runs, or None when it is to be submitted.

        Raises BackendLost when its ComfyUI has it no longer, JobFailed when that does not answer in time.
        """
        try:
            return await in_time(locate(self._backends, left), self._remaining(job, TAKE_UP_SECONDS))
        except asyncio.TimeoutError:
            raise self._too_late(f"{left.backend}, which had it, does not answer") from None

    async def run(self, job: Job, graph: Graph, running: Running | None) -> tuple[Execution, Backend]:
        """Run `graph` to its success, or take up the job that is `running` already.

        Raises Refused when nobody took a job that is not admitted yet, BackendLost when ComfyUI or its GPU
        was lost with the job, JobFailed when the generation failed or took too long.
        """
        again = False
        while True:
            backend, execution = await self._place(job, graph, running, again)
            running, again = None, True
            try:
                ended = await self._run_on(job, backend, graph, execution)
            except ServiceDown as down:
                # It did not take the job, and whoever waits gets another one.
                backend.lost(down)
                log.info("job %s is not with %s: %s", job.id, backend.url, down)
            else:
                await self._judge(job, backend, ended)
                return ended, backend
            finally:
                job.marks.ended = time.monotonic()
                self._slots.release(backend)

    async def _place(
        self, job: Job, graph: Graph, running: Running | None, again: bool
    ) -> tuple[Backend, Execution | None]:
        """Return the backend that is taken for the job, and how it stands there if it has it already."""
        if running is not None:
            self._slots.occupy(running.backend)
            if running.begun:
                job.become("generating")
            return running.backend, running.execution
        if not job.accepted and not self._backends.healthy():
            await self._backends.probe()
        backend = None if again and job.accepted else self._slots.take_now()
        if backend is not None:
            return backend, None
        if not job.accepted:
            running = await self._check(job, graph)
            job.admit()
            if running is not None:
                self._slots.occupy(running.backend)
                return running.backend, running.execution
        try:
            return await self._slots.take(job.id, first=again, seconds=self._remaining(job)), None
        except asyncio.TimeoutError:
            raise self._too_late("no ComfyUI was free for it") from None

    async def _check(self, job: Job, graph: Graph) -> Running | None:
        """Raise Refused when no ComfyUI would take `graph`; return the one where it runs by accident."""
        for backend in self._backends.usable():
            prompt_id = await self._assign(job, backend)
            try:
                job.execution = await backend.client.submit(
                    graph, client_id=prompt_id, prompt_id=prompt_id, number=LAST
                )
                prompt_id = job.execution.prompt_id
                if await self._taken_back(backend, prompt_id):
                    job.execution = None
                    self._store.note(self._store.database.assign, job.id, "", None)
                    return None
                self._confirm(job, backend, prompt_id)
                return Running(backend, job.execution)
            except PromptRejected as rejection:
                raise rejected_by_comfyui(rejection) from rejection
            except ServiceDown as down:
                await backend.give_up(prompt_id)
                backend.lost(down)
            except LtxopsError as error:
                raise _nobody(error) from error
            except asyncio.CancelledError:
                await backend.give_up(prompt_id)
                raise
        errors = "; ".join(backend.error or backend.state for backend in self._backends.all)
        raise Refused(503, "backend_down", f"no ComfyUI takes jobs now: {errors}")

    async def _taken_back(self, backend: Backend, prompt_id: str) -> bool:
        await backend.client.delete_queued(prompt_id)
        if in_queue(await backend.client.queue(), prompt_id):
            return False
        return await backend.client.history(prompt_id) is None

    async def _run_on(
        self, job: Job, backend: Backend, graph: Graph, execution: Execution | None
    ) -> Execution:
        """Return how the job ended on `backend`; raises ServiceDown when it was not taken there."""
        if execution is None and job.accepted:
            await self._check_room()
        prompt_id = execution.prompt_id if execution else await self._assign(job, backend)
        taken = execution is not None

        def observe(event: Event) -> None:
            nonlocal taken, prompt_id
            if event.kind == "submitted":
                taken, prompt_id = True, str(event.data["prompt_id"])
                self._confirm(job, backend, prompt_id)
                job.admit()
            job.observe(event)

        try:
            if execution is not None:
                remaining = self._remaining(job, TAKE_UP_SECONDS)
                job.execution = execution
                return await backend.client.follow(execution, on_event=observe, deadline_seconds=remaining)
            job.execution = await backend.client.run(
                graph, on_event=observe, deadline_seconds=self._remaining(job), prompt_id=prompt_id
            )
            return job.execution
        except PromptRejected as rejection:
            if not job.accepted:
                raise rejected_by_comfyui(rejection) from rejection
            raise JobFailed(str(rejection), envelope.GENERATION_FAILED) from rejection
        except DeadlineExceeded as error:
            await backend.give_up(prompt_id)
            raise self._too_late(str(error)) from error
        except asyncio.CancelledError:
            if job.ending != "stopped":
                await backend.give_up(prompt_id)
            raise
        except LtxopsError as error:
            if taken:
                raise BackendLost(str(error)) from error
            await backend.give_up(prompt_id)
            if isinstance(error, ServiceDown):
                raise
            if not job.accepted:
                raise _nobody(error) from error
            raise JobFailed(str(error), envelope.BACKEND_LOST) from error

    async def _judge(self, job: Job, backend: Backend, execution: Execution) -> None:
        """Raise what the end of a run means when it is not success, and see to the machine it ran on."""
        measured = envelope.generation_seconds(execution.history)
        if measured is not None:
            job.marks.generation_seconds = (job.marks.generation_seconds or 0.0) + measured
        reason = execution.failure
        if reason is None:
            return
        fault = judge_error(execution.error)
        if fault == "gpu_fault":
            backend.latch(execution.prompt_id)
            raise BackendLost(f"the GPU of {backend.url} is broken until ComfyUI restarts: {reason}")
        if fault == "out_of_memory":
            with suppress(LtxopsError):
                await backend.client.free()
            reason = f"the GPU ran out of memory, which ComfyUI was told to free: {reason}"
        raise JobFailed(reason, envelope.GENERATION_FAILED)

    async def _assign(self, job: Job, backend: Backend) -> str:
        job.prompt_id = prompt_id = str(uuid.uuid4())
        await self._store.call(self._store.database.assign, job.id, backend.url, prompt_id)
        return prompt_id

    def _confirm(self, job: Job, backend: Backend, prompt_id: str) -> None:
        self._store.note(self._store.database.submitted, job.id, prompt_id)
        log.info("job %s is with %s as prompt %s", job.id, backend.url, prompt_id)

    async def _check_room(self) -> None:
        """Raise JobFailed when the disk has become full while a job waited."""
        full = (await self._room.look()).error
        if full is not None:
            raise JobFailed(full, envelope.NO_ROOM)

    def _remaining(self, job: Job, least_seconds: float = 0.0) -> float:
        return max(least_seconds, job.marks.arrived + self._deadline_seconds - time.monotonic())

    def _too_late(self, why: str) -> JobFailed:
        return JobFailed(
            f"the job did not end within {self._deadline_seconds:g} s of its arrival: {why}",
            envelope.GENERATION_FAILED,
        )


def _nobody(error: LtxopsError) -> Refused:
    return Refused(502, "backend_down", f"no ComfyUI takes jobs now: {error}")
