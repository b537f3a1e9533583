"""The wrapper killed at a chosen moment: between what it asks of ComfyUI and what it makes of the answer."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from tests.integration.wrapper_host import Host, call, free_port, graph, wait_for


class Between:
    """Passes everything on to a ComfyUI, and kills `victim` when it sees `moment`: a method and path, and
    whether before or after ComfyUI has heard of it. `skip` requests of that kind are let through first."""

    def __init__(self, engine_url: str) -> None:
        self.engine_url, self.port = engine_url, free_port()
        self.victim = 0
        self.moment: tuple[str, str, str] | None = None
        self.skip = 0
        self._started = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        assert self._started.wait(10)

    async def _serve(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/ws", self._socket)
        app.router.add_route("*", "/{tail:.*}", self._pass)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        async with aiohttp.ClientSession() as self._session:
            self._started.set()
            await asyncio.Event().wait()

    def _strike(self, request: web.Request, when: str) -> None:
        folder = "/" + request.path.split("/")[1]
        if self.moment != (request.method, folder, when):
            return
        if self.skip:
            self.skip -= 1
        else:
            self.moment = None
            os.kill(self.victim, signal.SIGKILL)

    async def _pass(self, request: web.Request) -> web.Response:
        body = await request.read()
        self._strike(request, "before")
        headers = {"Content-Type": request.headers.get("Content-Type", "text/plain")}
        url = self.engine_url + request.path_qs
        async with self._session.request(request.method, url, data=body, headers=headers) as answer:
            text = await answer.read()
        self._strike(request, "after")
        return web.Response(body=text, status=answer.status, content_type=answer.content_type)

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        ours = web.WebSocketResponse()
        await ours.prepare(request)
        async with self._session.ws_connect(self.engine_url + request.path_qs) as theirs:
            closing = asyncio.create_task(ours.receive())
            while not closing.done():
                heard = asyncio.create_task(theirs.receive())
                await asyncio.wait({heard, closing}, return_when=asyncio.FIRST_COMPLETED)
                if not heard.done():
                    heard.cancel()
                elif heard.result().type is aiohttp.WSMsgType.TEXT:
                    await ours.send_str(heard.result().data)
                else:
                    break
        return ours


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A ComfyUI is started."""
    host = Host(tmp_path)
    host.start_engine()
    yield host
    host.close()


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize(
    "moment",
    [
        ("POST", "/prompt", "before"),
        ("POST", "/prompt", "after"),
        ("POST", "/queue", "before"),
        ("POST", "/queue", "after"),
        ("GET", "/queue", "after"),
        ("GET", "/history", "before"),
        ("GET", "/history", "after"),
    ],
    ids=lambda moment: "-".join(moment).replace("/", ""),
)
def test_no_moment_loses_or_doubles_a_job(host: Host, moment: tuple[str, str, str], skip: int) -> None:  # R58
    between = Between(host.engine_url)
    host.backends = [f"http://127.0.0.1:{between.port}"]
    wrapper = host.start_wrapper()
    wait_for(lambda: call(f"{host.url}/health")[0] == 200)
    between.victim, between.moment, between.skip = wrapper.process.pid, moment, skip
    accepted: list[str] = []
    names = [f"job-{number}" for number in range(3)]
    for number, name in enumerate(names):
        # The first runs while the others are checked.
        workflow = graph(9 if number else 1500, f"video/{name}", 256)
        workflow.pop("4")
        try:
            status, _ = host.submit(workflow, request_id=name)
        except (OSError, ValueError, HTTPException):  # an answer can break off anywhere
            break
        assert status == 202
        accepted.append(name)
    wait_for(lambda: wrapper.process.poll() is not None)
    host.start_wrapper()
    for name in names:
        if name in accepted or host.result(name)[0] == 200:
            envelope = host.ended(name)
            assert envelope["status"] == "completed", envelope["message"]
            assert len(list(host.output.glob(f"video/{name}_*"))) == 1, "it ran once"
    queue = call(f"{host.engine_url}/queue")[2]
    assert queue == {"queue_running": [], "queue_pending": []}
