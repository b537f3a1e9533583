"""Following one job of ComfyUI to its end.

A job is followed on the WebSocket, because only there is its progress, and judged by `/history`, because a
socket can drop and a process can restart; when the two disagree, `/history` is right.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiohttp

from ltxops.errors import CheckFailed
from ltxops.generation.execution import Event, Execution, in_queue
from ltxops.generation.transport import ServiceDown, Socket, Transport, decode_leniently

#: Seconds between looks at `/history`: while the WebSocket is quiet, while it is down, and after the last
#: message, when ComfyUI writes the entry within milliseconds.
_QUIET_SECONDS = 5.0
_DOWN_SECONDS = 0.5
_ENDING_SECONDS = 0.02


async def fetch_history(transport: Transport, prompt_id: str) -> dict[str, Any] | None:
    """Return the history entry of a job that has ended, or None."""
    entry = (await transport.json("GET", f"/history/{prompt_id}")).get(prompt_id)
    return entry if isinstance(entry, dict) else None


async def open_socket(transport: Transport, client_id: str) -> Socket:
    """Open the WebSocket on which ComfyUI reports the jobs submitted with this client id."""
    return await transport.websocket(f"/ws?clientId={client_id}")


class Following:
    """One job being followed: the socket may be lost and opened again, the job may be lost for good."""

    def __init__(
        self,
        transport: Transport,
        job: Execution,
        client_id: str,
        socket: "Socket | None",
        report: Callable[[Event], None],
        grace_seconds: float,
    ) -> None:
        self._transport, self._job, self._client_id = transport, job, client_id
        self._socket = socket
        self._report, self._grace_seconds = report, grace_seconds

    async def to_the_end(self) -> None:
        down_since: float | None = None
        try:
            while True:
                if self._socket is not None and not self._job.finished and not await self._listen():
                    self._socket = None
                try:
                    if await self._ended():
                        return
                    if self._socket is None:
                        # A pause, so that a service that drops every socket is not asked in a tight loop.
                        await asyncio.sleep(_ENDING_SECONDS)
                        self._socket = await open_socket(self._transport, self._client_id)
                        # The job's last message may have come before there was a socket to hear it.
                        if await self._ended():
                            return
                    down_since = None
                except ServiceDown as error:
                    down_since = down_since or time.monotonic()
                    if time.monotonic() - down_since >= self._grace_seconds:
                        raise CheckFailed(f"{self._lost('went away')}: {error}") from error
                    await asyncio.sleep(_DOWN_SECONDS)
                if self._job.finished:
                    await asyncio.sleep(_ENDING_SECONDS)
        finally:
            await self.close()

    async def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            await self._socket.close()

    async def _listen(self) -> bool:
        """Take in messages until the job's last or a while of silence; False when the socket is lost."""
        assert self._socket is not None
        while not self._job.finished:
            try:
                message = await self._socket.receive(timeout=_QUIET_SECONDS)
            except asyncio.TimeoutError:
                return True
            if message.type is aiohttp.WSMsgType.TEXT:
                for event in self._job.observe(decode_leniently(message.data) or {}, time.time()):
                    self._report(event)
            elif message.type is not aiohttp.WSMsgType.BINARY:  # binary: previews of the picture
                return False
        return True

    async def _ended(self) -> bool:
        """Look whether the job has its entry in the history. Raises CheckFailed when nobody knows it."""
        for attempt in range(2):
            entry = await fetch_history(self._transport, self._job.prompt_id)
            if entry is not None:
                self._job.conclude(entry)
                return True
            # The job can move from the queue to the history between two questions, so the history is asked
            # once more before the job is called lost.
            if attempt == 0 and in_queue(await self._transport.json("GET", "/queue"), self._job.prompt_id):
                return False
        raise CheckFailed(
            f"{self._lost('no longer knows')}: it restarted (out of memory?), or its queue or history was "
            "cleared; look at its log"
        )

    def _lost(self, verb: str) -> str:
        where = f" at node {self._job.last_node}" if self._job.last_node else ""
        if verb == "went away":
            return f"ComfyUI went away while it ran job {self._job.prompt_id}{where}"
        return f"ComfyUI {verb} job {self._job.prompt_id}, seen last{where or ' in its queue'}"
