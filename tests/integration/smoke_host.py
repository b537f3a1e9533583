"""A host to smoke: the embedded engine as a process of its own, behind a small guarded front on loopback."""

import asyncio
import json
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from ltxops.generation import workflows

TOKEN = "smoke-token-0123456789"


def write_weight(path: Path) -> None:
    """Write the smallest valid safetensors file with a tensor in it."""
    header = json.dumps({"weight": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


def write_weights(base: Path, *names: str) -> None:
    """Place the weights that the named workflows need under `base`/models, the sharded Gemma whole."""
    for name in names:
        for model in workflows.required_models(name):
            path = base / "models" / model.folder / model.name
            write_weight(path)
            if "-of-00005" in path.name:
                for number in range(2, 6):
                    write_weight(path.with_name(f"model-{number:05}-of-00005.safetensors"))
                (path.parent / "tokenizer.model").write_bytes(b"tokenizer")


@contextmanager
def engine(base: Path, seconds_per_step: float = 0.0) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run the embedded engine on a free port; gives its URL and its process."""
    base.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "ltxops.cli.main", "embedded", "comfyui", "--port", "0"]
    command += ["--base-directory", str(base), "--seconds-per-step", str(seconds_per_step)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if "http://" in line:
                    yield "http://" + line.split("http://")[1].strip(), process
                    break
            else:
                raise AssertionError("the embedded engine did not start")
        finally:
            process.terminate()
            process.stdout.close()


@dataclass
class Front:
    """A gateway of a few lines: 401 without the token, 502 while the engine is down, WebSockets passed on.

    `instead_of_view`: a file that is sent for every download; `seen`: the paths that reached the engine.
    """

    backend: str
    token: str | None = TOKEN
    instead_of_view: Path | None = None
    seen: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        self.seen.append(request.path)
        if request.path == "/view" and self.instead_of_view is not None:
            return web.FileResponse(self.instead_of_view)
        try:
            async with aiohttp.ClientSession() as session:
                if request.path == "/ws":
                    return await self._pass_socket(request, session)
                async with session.request(
                    request.method,
                    self.backend + request.raw_path,
                    data=await request.read(),
                    headers={"Content-Type": request.headers.get("Content-Type", "application/json")},
                ) as answer:
                    body = await answer.read()
                    return web.Response(status=answer.status, body=body, content_type=answer.content_type)
        except aiohttp.ClientError:
            return web.json_response({"error": "Bad gateway"}, status=502)

    async def _pass_socket(
        self, request: web.Request, session: aiohttp.ClientSession
    ) -> web.WebSocketResponse:
        async with session.ws_connect(self.backend + request.raw_path) as inner:
            outer = web.WebSocketResponse()
            await outer.prepare(request)
            closing = asyncio.create_task(outer.receive())
            while True:
                arriving = asyncio.create_task(inner.receive())
                done, _ = await asyncio.wait({closing, arriving}, return_when=asyncio.FIRST_COMPLETED)
                if closing in done or arriving.result().type is not aiohttp.WSMsgType.TEXT:
                    arriving.cancel()
                    closing.cancel()
                    await outer.close()
                    return outer
                await outer.send_str(arriving.result().data)


@contextmanager
def serving(front: Front) -> Iterator[str]:
    """Serve a front from a thread of its own; gives its URL."""
    ready, loop, stop, address = threading.Event(), asyncio.new_event_loop(), asyncio.Event(), []

    async def serve() -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", front.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
