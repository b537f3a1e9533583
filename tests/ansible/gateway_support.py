"""A gateway for tests: a real nginx, configured by its role, before a backend that notes what reaches it."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import aiohttp
from aiohttp import web
from tests.support import free_port as free_port
from tests.support import wait_for

REPO = Path(__file__).parents[2]
TOKEN = "Test-Token_0123456789.~+/="
GOOD = {"Authorization": f"Bearer {TOKEN}"}
#: ComfyUI's routes by method, each served with and without /api in front.
COMFYUI_ROUTES = [
    ("GET", "/"),
    ("GET", "/prompt"),
    ("POST", "/prompt"),
    ("GET", "/queue"),
    ("POST", "/queue"),
    ("GET", "/history"),
    ("GET", "/history/x"),
    ("POST", "/history"),
    ("POST", "/interrupt"),
    ("POST", "/free"),
    ("GET", "/view?filename=a"),
    ("GET", "/view_metadata/loras?filename=a"),
    ("POST", "/upload/image"),
    ("POST", "/upload/mask"),
    ("GET", "/object_info"),
    ("GET", "/object_info/SaveVideo"),
    ("GET", "/system_stats"),
    ("GET", "/models"),
    ("GET", "/models/loras"),
    ("GET", "/embeddings"),
    ("GET", "/extensions"),
    ("GET", "/features"),
    ("GET", "/jobs"),
    ("GET", "/jobs/x"),
    ("GET", "/settings"),
    ("GET", "/users"),
    ("GET", "/userdata?dir=workflows"),
    ("GET", "/userdata/x.json"),
    ("GET", "/ws"),
]
#: The wrapper's, which nobody serves below /api.
WRAPPER_ROUTES = [
    ("POST", "/generate"),
    ("POST", "/generate/sync"),
    ("POST", "/generate/stream"),
    ("GET", "/result/x"),
    ("POST", "/cancel/x"),
    ("GET", "/queue-info"),
    ("GET", "/health"),
    ("GET", "/docs"),
    ("GET", "/docs/swagger-ui.css"),
    ("GET", "/openapi.json"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("POST", "/v1/models"),
    ("DELETE", "/v1/models/x"),
]


@dataclass
class Backend:
    """An HTTP server that stands where ComfyUI and the wrapper would, and keeps every request."""

    port: int
    files: Path = Path("/nonexistent")
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    #: Bytes of bodies that have arrived, also of those that are still on their way.
    received: int = 0
    #: An answer to /generate/stream waits for one of these before each event but the first.
    go_on: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.raw_path, dict(request.headers)))
        if request.headers.get("Upgrade", "").lower() == "websocket":
            socket_ = web.WebSocketResponse()
            await socket_.prepare(request)
            async for message in socket_:
                await socket_.send_str(f"echo {message.data}")
            return socket_
        if request.path.endswith("/view"):
            # As ComfyUI does: the file's own type, its name, and a careless header of CORS.
            name = request.query["filename"]
            headers = {"Content-Disposition": f'filename="{name}"', "Access-Control-Allow-Origin": "*"}
            return web.FileResponse(self.files / name, headers=headers)
        if request.path == "/generate/stream":
            return await self.events(request)
        before = self.received
        async for piece in request.content.iter_any():
            self.received += len(piece)
        return web.json_response({"path": request.path, "bytes": self.received - before})

    async def events(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b"event: status\n\n")
        for event in (b"event: node\n\n", b"event: result\n\n"):
            await asyncio.to_thread(self.go_on.acquire, timeout=30)
            await stream.write(event)
        return stream

    def serve(self) -> None:
        async def run() -> None:
            app = web.Application(client_max_size=64 * 1024**2)
            app.router.add_route("*", "/{tail:.*}", self.answer)
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            await asyncio.Event().wait()

        threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()


@dataclass
class Gateway:
    url: str
    port: int
    folder: Path
    log: Path
    comfyui: Backend
    wrapper: Backend

    @property
    def ports(self) -> dict[str, int]:
        """The variables that it was rendered with, for another run of its role."""
        return {
            "comfyui_port": self.comfyui.port,
            "wrapper_port": self.wrapper.port,
            "gateway_port": self.port,
        }

    def request(self, method: str, path: str, **options: Any) -> tuple[int, bytes, dict[str, str]]:
        async def run() -> tuple[int, bytes, dict[str, str]]:
            async with (
                aiohttp.ClientSession() as session,
                session.request(method, self.url + path, **options) as answer,
            ):
                return answer.status, await answer.read(), dict(answer.headers)

        return asyncio.run(run())

    def raw(self, text: str, ends: bool = True) -> bytes:
        """Send bytes as they are, for what a client library would not send.

        nginx gives up a request whose client `ends` its side; who does not must ask for the connection's end.
        """
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(text.replace("\n", "\r\n").encode())
            if ends:
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
            return answer

    def reached(self) -> list[tuple[str, str, dict[str, str]]]:
        return [*self.comfyui.seen, *self.wrapper.seen]

    def forget(self) -> None:
        self.comfyui.seen.clear()
        self.wrapper.seen.clear()

    def logged(self) -> list[dict[str, Any]]:
        """The access log so far; nginx writes an entry after the answer, so wait for it."""
        lines = self.log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


def render(folder: Path, *arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    settings = {
        "ltxops_scope": "user",
        "ltxops_root": str(folder),
        "ansible_remote_tmp": str(folder / "tmp"),
        "ansible_python_interpreter": sys.executable,
        "comfyui_address": "127.0.0.1",
        "wrapper_address": "127.0.0.1",
        "gateway_address": "127.0.0.1",
        "gateway_token": TOKEN,
        "gateway_max_body_mib": 1,
        "_ltxops_cli": [str(Path(sys.executable).parent / "ltxops")],
        **variables,
    }
    command = [
        str(Path(sys.executable).parent / "ansible-playbook"),
        "-i",
        "localhost,",
        "tests/ansible/gateway.yml",
        "-e",
        json.dumps(settings),
        *arguments,
    ]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(REPO / "ansible.cfg")}
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=120)


def start(folder: Path, output: IO[bytes]) -> "subprocess.Popen[bytes]":
    script = folder / "home/bin/gateway.sh"
    return subprocess.Popen([script], stdout=output, stderr=output, start_new_session=True)


@contextmanager
def running_gateway(folder: Path, **variables: Any) -> Iterator[Gateway]:
    """A gateway of its own in `folder`, with role variables; it ends with the block."""
    comfyui, wrapper, port = Backend(free_port(), folder / "files"), Backend(free_port()), free_port()
    ports = {"comfyui_port": comfyui.port, "wrapper_port": wrapper.port, "gateway_port": port}
    rendered = render(folder, **{**ports, **variables})
    assert rendered.returncode == 0, rendered.stdout
    comfyui.serve()
    wrapper.serve()
    log = folder / "gateway.log"
    with log.open("wb") as output:
        process = start(folder, output)
    for backend in (port, comfyui.port, wrapper.port):
        wait_for_port(backend, process, log)
    try:
        yield Gateway(f"http://127.0.0.1:{port}", port, folder, log, comfyui, wrapper)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    def listens() -> bool:
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for(listens, told=lambda: f"nothing listens on {port}: {log.read_text()}")
