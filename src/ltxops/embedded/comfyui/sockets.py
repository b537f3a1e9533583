"""The WebSocket side: who is connected, and getting messages to them from any thread."""

import asyncio
import contextlib
import json
from typing import Any
from uuid import uuid4

from aiohttp import WSMsgType, web

#: A client that has fallen this many messages behind is let go, so that it cannot fill the memory.
BACKLOG = 10_000
#: Seconds between pings; a client that has vanished without a word is noticed by them.
HEARTBEAT_SECONDS = 30.0


class Sockets:
    """The connected clients. A later connection under the same id takes the earlier one's place."""

    def __init__(self, features: dict[str, object]) -> None:
        self._features = features
        self._backlogs: dict[str, asyncio.Queue[str | None]] = {}
        self._open: set[web.WebSocketResponse] = set()
        self._loop = asyncio.get_running_loop()

    def send(self, kind: str, data: dict[str, Any], client_id: str | None) -> None:
        """Send a message to one client, or to all where `client_id` is None. From any thread; never waits."""
        text = json.dumps({"type": kind, "data": data})
        # The loop is closed when the engine is going down; then nobody listens any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._post, text, client_id)

    def _post(self, text: str, client_id: str | None) -> None:
        names = list(self._backlogs) if client_id is None else [client_id]
        for name in names:
            backlog = self._backlogs.get(name)
            if backlog is None:
                continue
            if backlog.full():
                del self._backlogs[name]
                backlog.get_nowait()
                backlog.put_nowait(None)
            else:
                backlog.put_nowait(text)

    async def serve(
        self, request: web.Request, status: dict[str, Any], running: str | None
    ) -> web.WebSocketResponse:
        """Handle one connection. `status` greets it; `running` is the node of its job that runs, if any."""
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_SECONDS)
        await socket.prepare(request)
        client_id = request.query.get("clientId") or uuid4().hex
        backlog: asyncio.Queue[str | None] = asyncio.Queue(BACKLOG)
        self._backlogs[client_id] = backlog
        self._open.add(socket)
        self.send("status", {"status": status, "sid": client_id}, client_id)
        if running is not None:
            self.send("executing", {"node": running}, client_id)
        writer = asyncio.create_task(_write(socket, backlog))
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    self._answer(message.data, client_id)
        finally:
            writer.cancel()
            self._open.discard(socket)
            if self._backlogs.get(client_id) is backlog:
                del self._backlogs[client_id]
        return socket

    def _answer(self, text: str, client_id: str) -> None:
        """Answer the one thing clients say: which features they have."""
        with contextlib.suppress(ValueError):
            said = json.loads(text)
            if isinstance(said, dict) and said.get("type") == "feature_flags":
                self.send("feature_flags", self._features, client_id)

    async def close(self) -> None:
        """Say goodbye to everyone."""
        for socket in list(self._open):
            await socket.close(code=1001, message=b"the engine is stopping")


async def _write(socket: web.WebSocketResponse, backlog: "asyncio.Queue[str | None]") -> None:
    """Write messages as they come. A None ends it, and so does a client that is gone."""
    with contextlib.suppress(ConnectionError):
        while (text := await backlog.get()) is not None:
            await socket.send_str(text)
        await socket.close(code=1013, message=b"too slow")
