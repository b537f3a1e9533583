"""The jobs of one wrapper: accepted and recorded, joined by whoever asks for the same, answered and kept.

Each job is a task of its own, so that a client that goes away takes nothing with it. A job whose process dies
is taken up by the next one.
"""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Coroutine
from typing import Any

from ltxops.errors import LtxopsError
from ltxops.wrapper import envelope
from ltxops.wrapper.backends import Backends
from ltxops.wrapper.database import LeftOver
from ltxops.wrapper.deliverer import Deliverer
from ltxops.wrapper.drain import draining
from ltxops.wrapper.envelope import Outcome
from ltxops.wrapper.execute import Executor
from ltxops.wrapper.generate import Generator
from ltxops.wrapper.job import Job
from ltxops.wrapper.refusals import Refused
from ltxops.wrapper.requests import JobRequest
from ltxops.wrapper.room import Room
from ltxops.wrapper.schema import S3Settings, WebhookSettings
from ltxops.wrapper.settings import JobSettings
from ltxops.wrapper.slots import Slots
from ltxops.wrapper.store import Store

log = logging.getLogger("ltxops.wrapper")

#: How long `cancel` waits for a job's answer.
CANCEL_SECONDS = 5.0
#: How many bytes of requests may wait together; one alone may always.
WAITING_BYTES = 64 * 2**20


class Jobs:
    """All jobs of one wrapper, at most `settings.max_waiting` more than there are backends.

    `on_end` is called with the answer of each job that ends; `room` is the disk of their outputs.
    """

    def __init__(
        self,
        store: Store,
        backends: Backends,
        deliverer: Deliverer,
        settings: JobSettings,
        on_end: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        self._store = store
        self._database = store.database
        self._backends = backends
        self._deliverer = deliverer
        self.limit = settings.max_waiting + len(backends.all)
        self._drain_file = settings.drain_file
        self._slots = Slots(backends, self._moved, self.draining)
        self.room = Room(settings.output_directory, settings.min_free_bytes)
        executor = Executor(store, backends, self._slots, self.room, settings.deadline_seconds)
        self._generator = Generator(store, executor, deliverer, settings)
        self._on_end = on_end
        self._active: dict[str, Job] = {}
        self._stopping = False

    async def take_up(self) -> None:
        """Go on with what a process that died left behind: accepted jobs do not vanish."""
        for one in await self._store.call(self._database.unannounced):
            webhook = WebhookSettings(**one.webhook) if one.webhook else None
            await self._announce(one.id, one.envelope, webhook)
        for left in await self._store.call(self._database.unfinished):
            job = Job(left.id, left.fingerprint, time.monotonic() - max(0.0, time.time() - left.accepted_at))
            job.retried, job.counted = left.retried, True
            job.admit()
            self._active[job.id] = job
            job.task = asyncio.create_task(self._bring(job, self._resume(job, left)))
            log.info("job %s is taken up again", job.id)

    def draining(self) -> bool:
        """Tell whether this host takes no jobs for a while."""
        return draining(self._drain_file)

    def counts(self) -> dict[str, int]:
        """Return how many jobs wait and how many are worked on."""
        states = [job.status for job in self._active.values() if job.accepted]
        return {"queued": states.count("queued"), "running": len(states) - states.count("queued")}

    async def start(self, request: JobRequest, arrived: float) -> Job:
        """Return the job of `request` once it is kept, joining one that is the same; it may have ended.

        `arrived` is when the request came, in seconds of the monotonic clock. Cancelling this leaves the job
        alone. Raises Refused.
        """
        job = self._active.get(request.id)
        if job is None:
            job = self._active[request.id] = Job(request.id, request.fingerprint, arrived)
            job.s3, job.webhook = request.s3, request.webhook
            job.task = asyncio.create_task(self._bring(job, self._accept(job, request)))
        elif job.fingerprint != request.fingerprint:
            raise _conflict(request.id)
        refused = await asyncio.shield(job.admitted)
        if refused is not None:
            raise refused
        return job

    async def outcome(self, job: Job) -> Outcome:
        """Return the answer of a job once it has ended. Cancelling this leaves the job alone."""
        return await asyncio.shield(job.outcome)

    async def find(self, job_id: str) -> dict[str, Any] | None:
        """Return the envelope of a job, finished or not, or None when there is no such job."""
        job = self._active.get(job_id)
        if job is not None and job.accepted:
            return envelope.unfinished(job_id, job.status)
        stored = await self._store.call(self._database.find, job_id)
        return stored.envelope if stored else None

    def fetched(self, job_id: str) -> None:
        """Note that somebody has the answer of a job."""
        self._store.note(self._database.fetched, job_id)

    async def cancel(self, job_id: str) -> dict[str, Any] | None:
        """End a job that waits or is being generated, and return its envelope as `find` does.

        One whose files are there already, or that has ended, is left alone.
        """
        job = self._active.get(job_id)
        if job is not None and job.accepted and job.status != "processing":
            job.end("cancelled")
            await asyncio.wait({job.outcome}, timeout=CANCEL_SECONDS)
            if job.outcome.done():
                return job.outcome.result().body
        return await self.find(job_id)

    async def stop(self) -> None:
        """Take no more jobs, and leave the unfinished ones to the next process."""
        self._stopping = True
        for job in self._active.values():
            job.end("stopped")
        await asyncio.gather(*(job.task for job in self._active.values() if job.task is not None))

    def _moved(self, job_id: str, position: int) -> None:
        self._active[job_id].become("queued", position)

    async def _bring(self, job: Job, work: Coroutine[Any, Any, Outcome]) -> None:
        """Bring a job to its outcome, whatever happens."""
        job.work = asyncio.create_task(work)
        if job.ending is not None:
            job.work.cancel()
        refused: Refused | None = None
        try:
            outcome = await job.work
        except asyncio.CancelledError:
            if job.ending == "cancelled":
                outcome = await self._cancelled(job)
            else:
                refused = _stopping(job.id)
        except Refused as error:
            log.info("job %s refused (%d): %s", job.id, error.status, error)
            refused = error
        except Exception:
            log.exception("job %s failed in the wrapper itself", job.id)
            outcome = await self._broken(job)
        finally:
            del self._active[job.id]
        if refused is not None:
            outcome = Outcome(refused.status, refused.body(job.id), refused.headers())
        if not job.admitted.done():
            job.admitted.set_result(refused)
        job.outcome.set_result(outcome)

    async def _accept(self, job: Job, request: JobRequest) -> Outcome:
        """Return the answer to a request that is new to this process."""
        stored = await self._store.call(self._database.find, job.id)
        if stored is not None:
            if stored.fingerprint != job.fingerprint:
                raise _conflict(job.id)
            if stored.envelope is not None and stored.http_status is not None:
                return Outcome(stored.http_status, stored.envelope)
        full = (await self.room.look()).error
        if full is not None:
            raise Refused(envelope.NO_ROOM, "disk_full", full)
        self._count_in(job, request.size)
        wanted = await asyncio.to_thread(request.stored)
        try:
            await self._store.call(self._database.accept, job.id, job.fingerprint, wanted)
        except sqlite3.Error as error:
            raise Refused(
                503,
                "not_recorded",
                f"the job cannot be recorded ({error}); look at the disk of the state folder",
            ) from error
        try:
            outcome = await self._generator.generate(job, wanted)
        except Refused:
            with contextlib.suppress(sqlite3.Error):
                await self._store.call(self._database.forget, job.id)
            raise
        await self._keep(job, outcome)
        return outcome

    async def _resume(self, job: Job, left: LeftOver) -> Outcome:
        """Return the answer of a job that an earlier process accepted."""
        wanted = await self._store.call(self._database.request, job.id)
        if wanted is None:
            reason = (
                "the wrapper was updated while the job was unfinished; send it again under a new request_id"
            )
            outcome = envelope.failed(job.id, reason, envelope.BACKEND_LOST)
        else:
            job.s3 = S3Settings(**wanted["s3"]) if wanted["s3"] else None
            job.webhook = WebhookSettings(**wanted["webhook"]) if wanted["webhook"] else None
            outcome = await self._generator.generate(job, wanted, left)
        await self._keep(job, outcome)
        return outcome

    async def _cancelled(self, job: Job) -> Outcome:
        response = envelope.comfyui_response(job.execution, job.started_at, envelope.sentence("cancelled"))
        outcome = envelope.cancelled(job.id, response, job.marks.timings(time.monotonic()))
        await self._keep(job, outcome)
        return outcome

    async def _broken(self, job: Job) -> Outcome:
        reason = "the wrapper itself failed on this job; its log says why"
        timings = job.marks.timings(time.monotonic())
        outcome = envelope.failed(job.id, reason, envelope.WRAPPER_FAILED, timings=timings)
        # Only what was recorded by this run: another answer under this id stays as it is.
        if job.counted:
            await self._keep(job, outcome)
        return outcome

    def _count_in(self, job: Job, size: int) -> None:
        """Count `job` in, whose body has `size` bytes, or raise Refused(503)."""
        if self._stopping:
            raise _stopping(job.id)
        if self.draining():
            raise Refused(503, "draining", "this host takes no new jobs while it is updated; try again later")
        if sum(other.counted for other in self._active.values()) >= self.limit:
            raise Refused(
                503,
                "queue_full",
                f"{self.limit} jobs are unfinished already, which is the limit; try again later",
            )
        held = sum(other.size for other in self._active.values() if other.counted)
        if held and held + size > WAITING_BYTES:
            raise Refused(
                503,
                "queue_full",
                f"the workflows of unfinished jobs have {held} bytes, and {WAITING_BYTES} is the limit; try "
                "again later",
            )
        job.counted, job.size = True, size

    async def _keep(self, job: Job, outcome: Outcome) -> None:
        body = outcome.body
        reason = "" if outcome.http_status == envelope.COMPLETED else f": {body['message']}"
        seconds = time.monotonic() - job.marks.arrived
        log.info("job %s %s after %.0f ms%s", job.id, body["status"], 1000 * seconds, reason)
        self._on_end(outcome)
        webhook = None if job.webhook is None else job.webhook.model_dump()
        try:
            await self._store.call(self._database.finish, job.id, outcome.http_status, body, webhook)
        except sqlite3.Error:
            # Who waits for it still gets the answer; the next process runs the job again.
            log.exception("the answer of job %s could not be kept", job.id)
            return
        if job.s3 is not None:
            self._store.note(self._database.scrub)
        with contextlib.suppress(LtxopsError, OSError):
            await self._generator.drop_inputs(job)
        await self._announce(job.id, body, job.webhook)

    async def _announce(self, job_id: str, body: dict[str, Any], webhook: WebhookSettings | None) -> None:
        """Hand the end of a job over to its webhook. What fails here is tried by the next process."""
        try:
            await self._deliverer.announce(job_id, body, webhook)
            await self._store.call(self._database.announced, job_id)
        except (LtxopsError, sqlite3.Error) as error:
            log.error("the end of job %s could not be handed to its webhook: %s", job_id, error)


def _conflict(request_id: str) -> Refused:
    return Refused(
        409,
        "request_id_taken",
        f"request_id {request_id} belongs to a job with another body; use a new request_id",
    )


def _stopping(request_id: str) -> Refused:
    return Refused(
        503,
        "stopping",
        f"the wrapper is being stopped; job {request_id} goes on when it is back if it was accepted: ask "
        f"GET /result/{request_id}, or send the same request again",
    )
