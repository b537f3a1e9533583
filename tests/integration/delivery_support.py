"""What the delivery talks to in tests: real servers in threads and processes that misbehave on request."""

import asyncio
import io
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from queue import Queue
from types import TracebackType
from typing import IO, Any
from urllib.request import Request, urlopen

import aiohttp
from aiohttp import web

from ltxops.wrapper.delivery.addresses import parse_networks
from ltxops.wrapper.delivery.service import Delivery
from ltxops.wrapper.delivery.settings import DeliverySettings
from ltxops.wrapper.schema import OutputItem

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 200
LOOPBACK = parse_networks("127.0.0.0/8")


class RunningServer:
    """A server on a free port of `host` which answers with `handler`. `requests` has what it was asked.

    `connections` counts those that were made, with a request or without.
    """

    def __init__(self, handler: Handler, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.handler = handler
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connections = 0
        self.host, self.port = host, port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="server")
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        """Return the address without a slash at its end."""
        return f"http://{self.host}:{self.port}"

    def __enter__(self) -> "RunningServer":
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = web.Server(self._answer, access_log=None)

        def connected() -> Any:
            self.connections += 1
            return server()

        listener = await self._loop.create_server(connected, self.host, self.port)
        self.port = listener.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        listener.close()
        await server.shutdown(0.1)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.BaseRequest)
        headers = {name.lower(): value for name, value in request.headers.items()}
        record = [request.method, request.path_qs, headers, b""]
        self.requests.append(record)  # type: ignore[arg-type]
        if request.method == "POST" and int(headers.get("content-length", 0)) < 1 << 20:
            record[3] = await request.read()
        return await self.handler(request)  # type: ignore[arg-type]


async def hang(request: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.sleep(3600)
    raise AssertionError


@asynccontextmanager
async def delivering(folder: Path, settings: DeliverySettings, **options: Any) -> AsyncIterator[Delivery]:
    """Give an open delivery whose outbox is in `folder`."""
    delivery = Delivery(settings, folder / "outbox.sqlite3", **options)
    await delivery.open()
    try:
        yield delivery
    finally:
        await delivery.close()


def output(path: Path) -> OutputItem:
    """Return an output of the job as the envelope lists it."""
    return OutputItem(
        filename=path.name,
        local_path=str(path),
        type="output",
        subfolder="",
        node_id="1",
        output_type="images",
    )


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for `condition`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


class Storage:
    """A real S3 server in a process of its own. It checks no keys and no signatures."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, method: str, path: str) -> bytes:
        """Return what a plain request is answered."""
        with urlopen(Request(self.url + path, method=method), timeout=60) as response:
            body: bytes = response.read()
            return body

    def unfinished(self, bucket: str) -> int:
        """Return how many multipart uploads are open."""
        return self.ask("GET", f"/{bucket}?uploads").count(b"<UploadId>")


@contextmanager
def storage() -> Iterator[Storage]:
    """Run an S3 server with the bucket `bucket`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    # It goes on to write a line a request, which somebody has to read.
    reading = threading.Thread(target=_read_all, args=(process.stderr, ports := Queue[int]()))
    reading.start()
    try:
        server = Storage(ports.get(timeout=60))
        server.ask("PUT", "/bucket")
        yield server
    finally:
        process.kill()
        process.wait()
        reading.join()
        process.stderr.close()


def _read_all(lines: IO[str], ports: "Queue[int]") -> None:
    for line in lines:
        if found := re.search(r"Running on http://127\.0\.0\.1:(\d+)", line):
            ports.put(int(found[1]))


@contextmanager
def reserved_port() -> Iterator[int]:
    """Give a port on which nobody listens and which nobody else gets; a RunningServer can take it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def _length(got: aiohttp.ClientResponse) -> dict[str, str]:
    return {"Content-Length": got.headers["Content-Length"]} if "Content-Length" in got.headers else {}


class Between:
    """Stands between client and storage. `fault` sees each request first, and may answer it or spoil it."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.fault: Callable[[web.Request, bytes], Awaitable[web.StreamResponse | bytes | None]] | None = None

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Forward a request."""
        body = b"".join([chunk async for chunk in request.content.iter_any()])
        if self.fault is not None:
            answer = await self.fault(request, body)
            if isinstance(answer, web.StreamResponse):
                return answer
            body = body if answer is None else answer
        headers = {name: value for name, value in request.headers.items() if name.lower() != "content-length"}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method, self._target + request.path_qs, headers=headers, data=io.BytesIO(body)
            ) as got,
        ):
            kept = {
                name: value
                for name, value in got.headers.items()
                if name.lower() not in ("transfer-encoding", "content-length", "connection")
            }
            if request.method == "HEAD":
                return web.Response(status=got.status, headers={**kept, **_length(got)})
            return web.Response(status=got.status, headers=kept, body=await got.read())
