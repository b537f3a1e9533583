"""One job on its way: what is known of it, who waits for it, who listens to it."""

import asyncio
import time
from typing import Any, Literal

from ltxops.generation.comfyui import Event, Execution
from ltxops.wrapper.envelope import Marks, Outcome
from ltxops.wrapper.refusals import Refused
from ltxops.wrapper.schema import JobStatus, S3Settings, WebhookSettings

#: Messages that a listener may be behind with; then the oldest are dropped, and the result still comes.
BACKLOG = 256

#: A name and its data, as the stream sends them.
Message = tuple[str, dict[str, Any]]


class Job:
    """One request on its way. `outcome` is what everybody who asked for it waits for.

    `admitted` is set once the job is kept for sure, or has why it is not. `task` brings the job to its
    outcome and is never cancelled; `work` is the part of it that waits for others, and is when `ending` says
    why. `counted` jobs are those that the limits are about, `size` the bytes of their bodies.
    """

    def __init__(self, job_id: str, fingerprint: str, arrived: float) -> None:
        loop = asyncio.get_running_loop()
        self.id, self.fingerprint = job_id, fingerprint
        self.marks = Marks(arrived)
        self.status: JobStatus = "queued"
        self.position = 0
        self.admitted: asyncio.Future[Refused | None] = loop.create_future()
        self.outcome: asyncio.Future[Outcome] = loop.create_future()
        self.task: asyncio.Task[None] | None = None
        self.work: asyncio.Task[Outcome] | None = None
        self.ending: Literal["cancelled", "stopped"] | None = None
        self.s3: S3Settings | None = None
        self.webhook: WebhookSettings | None = None
        self.prompt_id: str | None = None
        self.execution: Execution | None = None
        self.started_at = time.time()
        self.retried = self.counted = False
        self.size = 0
        self._listeners: list[asyncio.Queue[Message]] = []

    @property
    def accepted(self) -> bool:
        """True once the job is kept for sure."""
        return self.admitted.done() and self.admitted.result() is None

    def admit(self) -> None:
        """The job is kept for sure."""
        self.marks.submitted = self.marks.submitted or time.monotonic()
        if not self.admitted.done():
            self.admitted.set_result(None)

    def end(self, why: Literal["cancelled", "stopped"]) -> None:
        """Have the job wait for nobody any longer."""
        self.ending = self.ending or why
        if self.work is not None:
            self.work.cancel()

    def listen(self) -> "asyncio.Queue[Message]":
        """Return a queue that is told what happens from now on, after how things stand."""
        queue: asyncio.Queue[Message] = asyncio.Queue(BACKLOG)
        queue.put_nowait(("status", self.standing()))
        self._listeners.append(queue)
        return queue

    def leave(self, queue: "asyncio.Queue[Message]") -> None:
        """Tell this queue nothing more."""
        self._listeners.remove(queue)

    def standing(self) -> dict[str, Any]:
        """Return how the job stands, in a few words."""
        place = {"position": self.position} if self.position else {}
        return {"id": self.id, "status": self.status, **place}

    def become(self, status: JobStatus, position: int = 0) -> None:
        """Take a new status, or a new place among those that wait, and tell who listens."""
        if (self.status, self.position) != (status, position):
            self.status, self.position = status, position
            self._tell("status", self.standing())

    def observe(self, event: Event) -> None:
        """Take in what ComfyUI says of the job."""
        if event.kind == "execution_start":
            self.marks.started, self.started_at = self.marks.started or time.monotonic(), time.time()
            self.become("generating")
        elif event.kind == "executing" and event.node is not None:
            self.become("generating")  # the start of one that is taken up was told to another process
            self._tell("node", {"id": self.id, "node": event.node})
        elif event.percentage is not None:
            step = {"step": event.value, "steps": event.max, "percentage": event.percentage}
            self._tell("progress", {"id": self.id, "node": event.node, **step})

    def _tell(self, name: str, data: dict[str, Any]) -> None:
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait((name, data))
