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

    async def submit(
        self, graph: Graph, *, client_id: str, extra_data: dict[str, Any] | None = None
    ) -> Execution:
        """Queue a workflow without waiting for it. Raises PromptRejected when ComfyUI refuses it."""
        body: dict[str, Any] = {"prompt": graph, "client_id": client_id}
        if extra_data:
            body["extra_data"] = extra_data
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
    ) -> Execution:
        """Run a workflow to its end, whatever the end is: read `failure` of what is returned.

        `on_event` is called in this event loop, first with kind "submitted" (its data: prompt_id, number,
        node_errors), then with what ComfyUI says. Raises PromptRejected when ComfyUI refuses the workflow,
        DeadlineExceeded after `deadline_seconds`, CheckFailed when ComfyUI goes away or forgets the job.
        Cancelling the task, too, leaves the job to ComfyUI; see `cancel`.
        """
        report = on_event or (lambda event: None)
        deadline = time.monotonic() + deadline_seconds
        client_id = uuid.uuid4().hex
        # Connected before the submission: a short job can be over before its submission is answered.
        socket = await open_socket(self._transport, client_id)
        try:
            job = await self.submit(graph, client_id=client_id, extra_data=extra_data)
        except BaseException:
            await socket.close()
            raise
        told = {"prompt_id": job.prompt_id, "number": job.number, "node_errors": job.node_errors}
        try:
            report(Event("submitted", data=told))
            following = Following(self._transport, job, client_id, socket, report, self._grace_seconds)
            await asyncio.wait_for(following.to_the_end(), max(0.0, deadline - time.monotonic()))
        except asyncio.TimeoutError:
            at = f"node {job.last_node} was the last to run" if job.last_node else "no node had started"
            raise DeadlineExceeded(
                f"job {job.prompt_id} did not end within {deadline_seconds:g} s: {at}; look at ComfyUI's "
                "log, or allow more time",
                job.prompt_id,
            ) from None
        finally:
            await socket.close()
        return job
