"""An asynchronous client of ComfyUI's HTTP and WebSocket API, direct or through the gateway.

How one job is followed to its end is in `following.py`; what its messages mean, in `execution.py`.
"""

import asyncio
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from ltxops.errors import CheckFailed
from ltxops.generation.execution import (
    Event,
    Execution,
    Graph,
    OutputFile,
    PromptRejected,
    describe_rejection,
)
from ltxops.generation.following import Following, fetch_history, open_socket
from ltxops.generation.transport import ServiceDown, Transport, decode_leniently
from ltxops.timing import in_time

__all__ = [
    "ComfyClient",
    "DeadlineExceeded",
    "Event",
    "Execution",
    "Graph",
    "OutputFile",
    "PromptRejected",
    "ServiceDown",
]


class DeadlineExceeded(CheckFailed):
    """A job did not end in time. It is still ComfyUI's: `prompt_id` is what to cancel, if that is wanted."""

    def __init__(self, message: str, prompt_id: str) -> None:
        super().__init__(message)
        self.prompt_id = prompt_id


class ComfyClient:
    """One ComfyUI. Use it as an asynchronous context manager; several jobs may run at once.

    `timeout_seconds` bounds each request and, while downloading, each silence. `grace_seconds` is how long
    ComfyUI may be unreachable in the middle of a job before the job is given up.
    Every method raises ServiceDown (a CheckFailed) when ComfyUI cannot be reached, CheckFailed when it
    answers something else than expected, and AccessDenied when the token is missing or refused.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None = None,
        timeout_seconds: float = 30.0,
        grace_seconds: float = 60.0,
    ) -> None:
        self._transport = Transport(base_url, token=token, timeout_seconds=timeout_seconds)
        self._grace_seconds = grace_seconds
        self.base_url = self._transport.base_url

    async def __aenter__(self) -> "ComfyClient":
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    async def system_stats(self) -> dict[str, Any]:
        """Return ComfyUI's versions, memory and devices."""
        return await self._transport.json("GET", "/system_stats")

    async def object_info(self, class_name: str | None = None) -> dict[str, Any]:
        """Return the definitions of all node classes, or of one (an empty object when it does not exist)."""
        return await self._transport.json("GET", "/object_info" + (f"/{class_name}" if class_name else ""))

    async def queue(self) -> dict[str, Any]:
        """Return the running and the waiting jobs."""
        return await self._transport.json("GET", "/queue")

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return the history entry of a job that has ended, or None."""
        return await fetch_history(self._transport, prompt_id)

    async def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop the running job, or, given an id, only that one."""
        await self._transport.request("POST", "/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    async def delete_queued(self, prompt_id: str) -> None:
        """Take a waiting job out of the queue; one that runs or has ended is left alone."""
        await self._transport.request("POST", "/queue", {"delete": [prompt_id]})

    async def cancel(self, prompt_id: str) -> None:
        """Make sure that a job neither waits nor runs any longer."""
        await self.delete_queued(prompt_id)
        await self.interrupt(prompt_id)

    async def upload_image(self, name: str, content: bytes) -> str:
        """Put an image into ComfyUI's input folder; returns the name that it is kept under there."""
        form = aiohttp.FormData()
        form.add_field("image", content, filename=name, content_type="application/octet-stream")
        answer = await self._transport.json("POST", "/upload/image", form)
        kept = str(answer.get("name", ""))
        return f"{answer['subfolder']}/{kept}" if answer.get("subfolder") else kept

    async def download(self, file: OutputFile, destination: Path) -> int:
        """Fetch an output file to `destination`, which appears only when whole; returns its bytes."""
        query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
        return await self._transport.download("/view", query, destination)

    async def free(self) -> None:
        """Have ComfyUI unload its models and forget its cached results before its next job."""
        await self._transport.request("POST", "/free", {"unload_models": True, "free_memory": True})

    async def status(self) -> dict[str, Any]:
        """Return what ComfyUI says first on a new WebSocket: how many jobs it has, its own and others'."""
        socket = await open_socket(self._transport, uuid.uuid4().hex)
        try:
            while True:
                message = await socket.receive()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    raise CheckFailed(f"{self.base_url}/ws closed without a word of its status")
                said = decode_leniently(message.data) or {}
                if said.get("type") == "status":
                    return dict((said.get("data") or {}).get("status") or {})
        finally:
            await socket.close()

    async def submit(
        self,
        graph: Graph,
        *,
        client_id: str,
        extra_data: dict[str, Any] | None = None,
        prompt_id: str | None = None,
        number: float | None = None,
    ) -> Execution:
        """Queue a workflow without waiting for it. Raises PromptRejected when ComfyUI refuses it.

        `prompt_id` is the name it gets there, else ComfyUI makes one up; `number` is its place among the
        waiting, smaller ones first (ComfyUI counts up from 0).
        """
        body: dict[str, Any] = {"prompt": graph, "client_id": client_id}
        if extra_data:
            body["extra_data"] = extra_data
        if prompt_id is not None:
            body["prompt_id"] = prompt_id
        if number is not None:
            body["number"] = number
        status, text = await self._transport.request("POST", "/prompt", body, allow=range(400, 500))
        if status != 200:
            refusal = decode_leniently(text) or {"error": text[:2000]}
            raise PromptRejected(
                f"ComfyUI refused the workflow ({status}): {describe_rejection(refusal)}", status, refusal
            )
        answer = self._transport.decode(text, "/prompt")
        if not isinstance(answer.get("prompt_id"), str):
            raise CheckFailed(f"{self.base_url}/prompt took a workflow and gave no prompt id: {text[:200]}")
        return Execution(answer["prompt_id"], answer.get("number", 0), answer.get("node_errors") or {})

    async def run(
        self,
        graph: Graph,
        *,
        on_event: Callable[[Event], None] | None = None,
        deadline_seconds: float,
        extra_data: dict[str, Any] | None = None,
        prompt_id: str | None = None,
    ) -> Execution:
        """Run a workflow to its end, whatever the end is: read `failure` of what is returned.

        `on_event` is called in this event loop, first with kind "submitted" (its data: prompt_id, number,
        node_errors), then with what ComfyUI says. Raises PromptRejected when ComfyUI refuses the workflow,
        DeadlineExceeded after `deadline_seconds`, CheckFailed when ComfyUI goes away or forgets the job.
        Cancelling the task, too, leaves the job to ComfyUI; see `cancel`. A `prompt_id` that is given is the
        client id, too, so that `follow` can take the job up again.
        """
        report = on_event or (lambda event: None)
        deadline = time.monotonic() + deadline_seconds
        client_id = prompt_id or uuid.uuid4().hex
        # Connected before the submission: a short job can be over before its submission is answered.
        socket = await open_socket(self._transport, client_id)
        try:
            job = await self.submit(graph, client_id=client_id, extra_data=extra_data, prompt_id=prompt_id)
            told = {"prompt_id": job.prompt_id, "number": job.number, "node_errors": job.node_errors}
            report(Event("submitted", data=told))
        except BaseException:
            await socket.close()
            raise
        following = Following(self._transport, job, client_id, socket, report, self._grace_seconds)
        return await self._to_the_end(job, following, deadline, deadline_seconds)

    async def follow(
        self, job: Execution, *, on_event: Callable[[Event], None], deadline_seconds: float
    ) -> Execution:
        """Follow a job to its end that was submitted earlier with its prompt id as client id.

        Raises what `run` raises, but no PromptRejected.
        """
        deadline = time.monotonic() + deadline_seconds
        following = Following(self._transport, job, job.prompt_id, None, on_event, self._grace_seconds)
        return await self._to_the_end(job, following, deadline, deadline_seconds)

    async def _to_the_end(
        self, job: Execution, following: Following, deadline: float, allowed_seconds: float
    ) -> Execution:
        try:
            await in_time(following.to_the_end(), max(0.0, deadline - time.monotonic()))
        except asyncio.TimeoutError:
            at = f"node {job.last_node} was the last to run" if job.last_node else "no node had started"
            raise DeadlineExceeded(
                f"job {job.prompt_id} did not end within {allowed_seconds:g} s: {at}; look at ComfyUI's "
                "log, or allow more time",
                job.prompt_id,
            ) from None
        finally:
            await following.close()
        return job
