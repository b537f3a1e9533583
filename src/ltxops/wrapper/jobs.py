"""The jobs of one wrapper: accepted and recorded, joined by whoever asks for the same, answered and kept.

Each job is a task of its own, so that a client that goes away takes nothing with it. Jobs go straight into
ComfyUI's queue, which runs them one at a time: a wrong graph is then refused at once even while others run.
"""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ltxops.wrapper import envelope
from ltxops.wrapper.backends import Backends
from ltxops.wrapper.database import JobDatabase
from ltxops.wrapper.envelope import Outcome
from ltxops.wrapper.generate import RESTARTED, Job, generate
from ltxops.wrapper.refusals import Refused
from ltxops.wrapper.requests import JobRequest

log = logging.getLogger("ltxops.wrapper")

_T = TypeVar("_T")


class Jobs:
    """All jobs of one wrapper. Of those it accepted, one a backend runs and `max_waiting` more may wait.

    `deadline_seconds` bounds a job from its submission to its end, the wait in ComfyUI's queue included.
    """

    def __init__(
        self,
        database: JobDatabase,
        backends: Backends,
        output_directory: Path,
        *,
        max_waiting: int,
        deadline_seconds: float,
    ) -> None:
        self._database = database
        self._backends = backends
        self._output_directory = output_directory
        self._limit = max_waiting + len(backends.all)
        self._deadline_seconds = deadline_seconds
        self._active: dict[str, Job] = {}
        self._stopping = False
        # One thread: SQLite's calls keep their order, and none of them holds up the event loop.
        self._thread = ThreadPoolExecutor(1, "jobs-database")

    async def fail_left_over(self) -> None:
        """Answer the jobs that a wrapper which died left behind: accepted jobs do not vanish."""
        for job_id, prompt_id in await self._call(self._database.unfinished):
            stage = f"with ComfyUI as prompt {prompt_id}" if prompt_id else "on its way to ComfyUI"
            outcome = envelope.failed(job_id, RESTARTED.format(stage), envelope.BACKEND_LOST)
            await self._call(self._database.finish, job_id, outcome.http_status, outcome.body)
            log.warning("job %s failed: %s", job_id, outcome.body["message"])

    def counts(self) -> dict[str, int]:
        """Return how many jobs wait and how many are worked on."""
        states = [job.status for job in self._active.values() if job.accepted]
        return {"queued": states.count("queued"), "running": len(states) - states.count("queued")}

    async def run(self, request: JobRequest, arrived: float) -> Outcome:
        """Return the answer to `request` once its job has ended, joining a job that is the same.

        `arrived` is when the request came, in seconds of the monotonic clock. Cancelling this leaves the job
        alone.
        """
        job = self._active.get(request.id)
        if job is None:
            job = self._active[request.id] = Job(request, arrived)
            job.task = asyncio.create_task(self._run(job))
        elif job.request.fingerprint != request.fingerprint:
            return _refusal(request.id, _conflict(request.id))
        return await asyncio.shield(job.outcome)

    async def find(self, job_id: str) -> dict[str, Any] | None:
        """Return the envelope of a job, finished or not, or None when there is no such job."""
        job = self._active.get(job_id)
        if job is not None and job.accepted:
            return envelope.unfinished(job_id, job.status)
        stored = await self._call(self._database.find, job_id)
        return stored.envelope if stored else None

    async def stop(self) -> None:
        """Take no more jobs, and answer every unfinished one with why."""
        self._stopping = True
        for job in self._active.values():
            job.stop()
        await self._settle()

    async def close(self) -> None:
        """End the work with the database. Call it after the last request has been answered."""
        await self._settle()
        self._thread.shutdown()

    async def _settle(self) -> None:
        await asyncio.gather(*(job.task for job in self._active.values() if job.task is not None))

    async def _run(self, job: Job) -> None:
        """Bring a job to its outcome, whatever happens."""
        try:
            outcome = await self._answer(job)
        except Refused as refused:
            log.info("job %s refused (%d): %s", job.request.id, refused.status, refused)
            outcome = _refusal(job.request.id, refused)
        except Exception:
            log.exception("job %s failed in the wrapper itself", job.request.id)
            reason = "the wrapper itself failed on this job; its log says why"
            timings = job.marks.timings(time.monotonic())
            outcome = envelope.failed(job.request.id, reason, envelope.WRAPPER_FAILED, timings=timings)
            # Only what was recorded by this run: another answer under this id stays as it is.
            if job.accepted:
                await self._keep(job, outcome)
        finally:
            del self._active[job.request.id]
        job.outcome.set_result(outcome)

    async def _answer(self, job: Job) -> Outcome:
        stored = await self._call(self._database.find, job.request.id)
        if stored is not None:
            if stored.fingerprint != job.request.fingerprint:
                raise _conflict(job.request.id)
            if stored.envelope is not None and stored.http_status is not None:
                return Outcome(stored.http_status, stored.envelope)
        self._make_room(job)
        backend = self._backends.choose()
        try:
            await self._call(self._database.accept, job.request.id, job.request.fingerprint, backend.url)
        except sqlite3.Error as error:
            raise Refused(
                503,
                "not_recorded",
                f"the job cannot be recorded ({error}); look at the disk of the state folder",
            ) from error
        try:
            self._refuse_when_stopping()
            outcome = await generate(
                job,
                backend,
                self._output_directory,
                deadline_seconds=self._deadline_seconds,
                on_submitted=partial(self._note_prompt, job.request.id),
            )
        except Refused:
            with contextlib.suppress(sqlite3.Error):
                await self._call(self._database.forget, job.request.id)
            raise
        await self._keep(job, outcome)
        return outcome

    def _make_room(self, job: Job) -> None:
        """Count `job` in, or raise Refused(503)."""
        self._refuse_when_stopping()
        if sum(other.accepted for other in self._active.values()) >= self._limit:
            raise Refused(
                503,
                "queue_full",
                f"{self._limit} jobs are unfinished already, which is the limit; try again later",
            )
        job.accepted = True

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise Refused(503, "stopping", "the wrapper is being stopped; try again in a moment")

    async def _keep(self, job: Job, outcome: Outcome) -> None:
        reason = "" if outcome.http_status == envelope.COMPLETED else f": {outcome.body['message']}"
        total = outcome.body["timings"]["total"]
        log.info("job %s %s after %.0f ms%s", job.request.id, outcome.body["status"], total, reason)
        try:
            await self._call(self._database.finish, job.request.id, outcome.http_status, outcome.body)
        except sqlite3.Error:
            # Who waits for it still gets the answer; who asks later hears that the wrapper restarted.
            log.exception("the answer of job %s could not be kept", job.request.id)

    def _note_prompt(self, job_id: str, prompt_id: str) -> None:
        """Record the prompt id without waiting: what is recorded later for this job comes after it."""

        def report(done: asyncio.Future[None]) -> None:
            if done.exception() is not None:
                log.error("the prompt id of job %s could not be recorded: %s", job_id, done.exception())

        self._call(self._database.submitted, job_id, prompt_id).add_done_callback(report)

    def _call(self, function: Callable[..., _T], *args: object) -> "asyncio.Future[_T]":
        return asyncio.get_running_loop().run_in_executor(self._thread, partial(function, *args))


def _refusal(request_id: str, refused: Refused) -> Outcome:
    return Outcome(refused.status, refused.body(request_id), refused.headers())


def _conflict(request_id: str) -> Refused:
    return Refused(
        409,
        "request_id_taken",
        f"request_id {request_id} belongs to a job with another workflow; use a new request_id",
    )
