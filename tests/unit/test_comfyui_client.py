"""The client against the embedded engine, and against servers that misbehave in ways the engine does not."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import ltxops
from ltxops.embedded.comfyui.options import Options, folders_under
from ltxops.embedded.comfyui.server import running
from ltxops.errors import AccessDenied, BadInput, CheckFailed
from ltxops.generation import workflows
from ltxops.generation.comfyui import (
    ComfyClient,
    DeadlineExceeded,
    Event,
    OutputFile,
    PromptRejected,
    ServiceDown,
)
from ltxops.generation.execution import Execution, describe_rejection, output_files

CONTRACT = Path(ltxops.__file__).parent / "embedded" / "contract"
RECORDED: dict[str, Any] = json.loads((CONTRACT / "http_and_ws.json").read_text(encoding="utf-8"))
TOKEN = "a-token-of-some-length"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def engine(base: Path, seconds_per_step: float = 0.0) -> AsyncIterator[str]:
    async with running(Options("127.0.0.1", 0, folders_under(base), seconds_per_step, ("engine",))) as url:
        yield url


@asynccontextmanager
async def serving(routes: dict[str, Handler]) -> AsyncIterator[str]:
    """Serve `routes`, written "METHOD /path", on a free port."""
    app = web.Application()
    for route, handler in routes.items():
        method, path = route.split()
        app.router.add_route(method, path, handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Scripted:
    """A ComfyUI of a few lines: it sends `messages`, then closes each socket or keeps it open."""

    def __init__(self, *, messages: list[dict[str, Any]], keep_open: bool, history: dict[str, Any]) -> None:
        self.messages, self.keep_open, self.entry = messages, keep_open, history
        self.sockets = self.histories = 0
        self.history_after, self.queued, self.down = 0, True, False
        self.submitted = asyncio.Event()

    def routes(self) -> dict[str, Handler]:
        return {
            "GET /ws": self.ws,
            "POST /prompt": self.prompt,
            "GET /queue": self.queue,
            "GET /history/{id}": self.history,
        }

    async def ws(self, request: web.Request) -> web.StreamResponse:
        self._refuse_when_down()
        self.sockets += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await self.submitted.wait()
        for message in self.messages:
            await socket.send_json(message)
        if self.keep_open:
            await socket.receive()
        return socket

    async def prompt(self, request: web.Request) -> web.Response:
        self.submitted.set()
        return web.json_response({"prompt_id": "p1", "number": 4, "node_errors": {}})

    async def queue(self, request: web.Request) -> web.Response:
        self._refuse_when_down()
        pending = [[4, "p1", {}, {}, []]] if self.queued else []
        return web.json_response({"queue_running": pending, "queue_pending": []})

    async def history(self, request: web.Request) -> web.Response:
        self._refuse_when_down()
        self.histories += 1
        return web.json_response({"p1": self.entry} if self.histories > self.history_after else {})

    def _refuse_when_down(self) -> None:
        if self.down:
            raise web.HTTPBadGateway


SUCCESS = {"outputs": {}, "status": {"status_str": "success", "completed": True, "messages": []}}


def test_a_job_is_followed_to_its_file(tmp_path: Path) -> None:
    async def scenario() -> tuple[Execution, list[Event], int]:
        events: list[Event] = []
        async with engine(tmp_path / "base") as url, ComfyClient(url) as client:
            job = await client.run(workflows.fill("check"), on_event=events.append, deadline_seconds=20)
            return job, events, await client.download(job.outputs[0], tmp_path / "check.mp4")

    job, events, size = asyncio.run(scenario())
    assert (job.failure, job.status_str, job.completed, job.node_errors) == (None, "success", True, {})
    assert sorted(job.nodes_executed) == ["10", "11", "12", "13"]
    assert job.nodes_executed[-1] == "13"
    assert job.outputs == [OutputFile("check_00001_.mp4", "video", "output", "13", "images")]
    assert events[0].kind == "submitted"
    assert events[0].data["prompt_id"] == job.prompt_id == job.history["prompt"][1]
    assert {update["percentage"] for update in job.progress_updates} == {100.0}
    assert size == (tmp_path / "base/output/video/check_00001_.mp4").stat().st_size
    assert (tmp_path / "check.mp4").read_bytes()[4:8] == b"ftyp"


def test_several_jobs_of_one_client_do_not_mix(tmp_path: Path) -> None:
    async def scenario() -> list[Execution]:
        async with engine(tmp_path) as url, ComfyClient(url) as client:
            graphs = [workflows.fill("check", {"filename_prefix": f"job{n}", "length": 9}) for n in range(4)]
            return list(await asyncio.gather(*(client.run(graph, deadline_seconds=20) for graph in graphs)))

    jobs = asyncio.run(scenario())
    assert [job.outputs[0].filename for job in jobs] == [f"job{n}_00001_.mp4" for n in range(4)]


def test_a_refused_workflow_keeps_comfyuis_own_answer(tmp_path: Path) -> None:
    async def scenario(graph: dict[str, Any]) -> None:
        async with engine(tmp_path) as url, ComfyClient(url) as client:
            await client.run(graph, deadline_seconds=20)

    with pytest.raises(PromptRejected) as caught:
        asyncio.run(scenario(workflows.fill("distilled")))
    assert caught.value.status == 400
    assert caught.value.exit_code == 1
    assert "10" in caught.value.body["node_errors"]
    assert "ckpt_name 'ltx-2-19b-distilled.safetensors' is not among the choices" in str(caught.value)
    assert "is the file in its folder under models/?" in str(caught.value)


def test_a_workflow_accepted_in_part_says_so(tmp_path: Path) -> None:
    graph = RECORDED["prompt_one_good_one_bad_branch"]["request"]["json"]["prompt"]

    async def scenario() -> Execution:
        async with engine(tmp_path) as url, ComfyClient(url) as client:
            return await client.run(graph, deadline_seconds=20)

    job = asyncio.run(scenario())
    assert list(job.node_errors) == ["12"]
    assert [file.node_id for file in job.outputs] == ["3"]


def test_an_interrupted_and_a_deleted_job_end(tmp_path: Path) -> None:
    graph = workflows.fill("check", {"length": 4000, "width": 1280, "height": 720})

    async def scenario() -> tuple[Execution, bool]:
        async with engine(tmp_path) as url, ComfyClient(url) as client:
            seen = asyncio.Event()
            first = asyncio.create_task(
                client.run(
                    graph, on_event=lambda event: seen.set() if event.node else None, deadline_seconds=60
                )
            )
            await seen.wait()
            second = await client.submit(workflows.fill("check"), client_id="other")
            await client.cancel(second.prompt_id)
            waiting = (await client.queue())["queue_pending"]
            await client.interrupt()
            return await first, bool(waiting)

    job, waiting = asyncio.run(scenario())
    assert not waiting
    assert job.failure is not None
    assert job.failure.startswith("the job was interrupted at node ")


def test_a_deadline_names_the_last_node_and_the_job(tmp_path: Path) -> None:
    graph = workflows.fill("check", {"length": 4000, "width": 1280, "height": 720})

    async def scenario() -> None:
        async with engine(tmp_path) as url, ComfyClient(url) as client:
            try:
                await client.run(graph, deadline_seconds=0.8)
            except DeadlineExceeded as error:
                await client.cancel(error.prompt_id)
                raise

    with pytest.raises(DeadlineExceeded, match=r"did not end within 0\.8 s: node 1[0-3] was the last to run"):
        asyncio.run(scenario())


def test_a_socket_that_drops_is_opened_again_and_the_history_decides() -> None:
    async def scenario() -> tuple[Execution, Scripted]:
        script = Scripted(
            messages=[{"type": "executing", "data": {"node": "7", "prompt_id": "p1"}}],
            keep_open=False,
            history=SUCCESS,
        )
        script.history_after = 3
        async with serving(script.routes()) as url, ComfyClient(url) as client:
            return await client.run({}, deadline_seconds=10), script

    job, script = asyncio.run(scenario())
    assert job.failure is None
    assert job.nodes_executed == ["7"]
    assert script.sockets >= 2


def test_a_gateway_that_reloads_in_the_middle_is_waited_for() -> None:
    async def scenario() -> Execution:
        script = Scripted(messages=[], keep_open=False, history=SUCCESS)
        script.history_after = 1

        async def fall_and_rise() -> None:
            await script.submitted.wait()
            script.down = True
            await asyncio.sleep(0.7)
            script.down = False

        async with serving(script.routes()) as url, ComfyClient(url, grace_seconds=10) as client:
            falling = asyncio.create_task(fall_and_rise())
            job = await client.run({}, deadline_seconds=20)
            await falling
            return job

    assert asyncio.run(scenario()).failure is None


def test_a_comfyui_that_went_away_is_told_with_the_node_it_was_at() -> None:  # R36
    async def scenario() -> None:
        script = Scripted(
            messages=[{"type": "executing", "data": {"node": "54", "prompt_id": "p1"}}],
            keep_open=False,
            history=SUCCESS,
        )
        script.history_after = 10**6

        def die(event: Event) -> None:
            script.down = event.kind == "executing"

        async with serving(script.routes()) as url, ComfyClient(url, grace_seconds=0.6) as client:
            await client.run({}, on_event=die, deadline_seconds=20)

    with pytest.raises(CheckFailed, match="ComfyUI went away while it ran job p1 at node 54"):
        asyncio.run(scenario())


def test_a_comfyui_that_restarted_and_forgot_the_job_is_told() -> None:  # R36
    async def scenario() -> None:
        script = Scripted(messages=[], keep_open=False, history=SUCCESS)
        script.history_after, script.queued = 10**6, False
        async with serving(script.routes()) as url, ComfyClient(url) as client:
            await client.run({}, deadline_seconds=20)

    with pytest.raises(CheckFailed, match="no longer knows job p1, seen last in its queue: it restarted"):
        asyncio.run(scenario())


def test_a_stopped_service_is_one_sentence_with_its_url() -> None:
    async def scenario() -> str:
        async with serving({}) as url:
            gone = url
        async with ComfyClient(gone) as client:
            with pytest.raises(ServiceDown) as caught:
                await client.system_stats()
            with pytest.raises(ServiceDown, match="/ws"):
                await client.run({}, deadline_seconds=5)
        assert caught.value.exit_code == 1
        assert gone in str(caught.value)
        return str(caught.value)

    assert "Connect" in asyncio.run(scenario())


def test_a_service_that_hangs_is_given_up_in_time() -> None:  # R34
    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async def scenario() -> None:
        async with serving({"GET /queue": hang}) as url, ComfyClient(url, timeout_seconds=0.3) as client:
            await client.queue()

    with pytest.raises(ServiceDown, match=r"cannot be reached: no answer within 0\.3 s"):
        asyncio.run(scenario())


def test_the_token_is_sent_with_requests_and_sockets_and_a_refusal_is_exit_code_7() -> None:  # R1, R4
    seen: list[tuple[str, str | None]] = []

    async def guard(request: web.Request) -> web.StreamResponse:
        seen.append((request.path, request.headers.get("Authorization")))
        return web.json_response({"error": "Unauthorized"}, status=401)

    async def scenario() -> None:
        async with serving({"GET /queue": guard, "GET /ws": guard}) as url:
            async with ComfyClient(url, token=TOKEN) as client:
                with pytest.raises(AccessDenied, match="refused the token") as caught:
                    await client.queue()
                with pytest.raises(AccessDenied, match="refused the token"):
                    await client.run({}, deadline_seconds=5)
                assert caught.value.exit_code == 7
                assert TOKEN not in str(caught.value)
            async with ComfyClient(url) as client:
                with pytest.raises(AccessDenied, match="needs a token and none was given"):
                    await client.queue()

    asyncio.run(scenario())
    assert seen == [("/queue", f"Bearer {TOKEN}"), ("/ws", f"Bearer {TOKEN}"), ("/queue", None)]


def test_a_redirect_is_not_followed_with_the_token(tmp_path: Path) -> None:  # R24
    visited: list[str] = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        visited.append(request.path)
        raise web.HTTPFound("/other")

    async def scenario() -> None:
        routes: dict[str, Handler] = {f"GET {path}": elsewhere for path in ("/queue", "/view", "/other")}
        async with serving(routes) as url, ComfyClient(url, token=TOKEN) as client:
            with pytest.raises(CheckFailed, match="answered 302"):
                await client.queue()
            with pytest.raises(CheckFailed, match="answered 302"):
                await client.download(OutputFile("a", "", "output", "3", "images"), tmp_path / "a")

    asyncio.run(scenario())
    assert visited == ["/queue", "/view"]


@pytest.mark.parametrize("failing", ["short", "missing"])
def test_a_download_that_breaks_off_leaves_nothing_and_keeps_what_was(tmp_path: Path, failing: str) -> None:
    target = tmp_path / "video.mp4"
    target.write_bytes(b"the old one")

    async def view(request: web.Request) -> web.StreamResponse:
        if failing == "missing":
            return web.Response(status=404)
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"x" * 10)
        assert request.transport is not None
        request.transport.close()
        return response

    async def scenario() -> None:
        async with serving({"GET /view": view}) as url, ComfyClient(url) as client:
            await client.download(OutputFile("a.mp4", "video", "output", "3", "images"), target)

    with pytest.raises(CheckFailed, match="broke off" if failing == "short" else "answered 404"):
        asyncio.run(scenario())
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]
    assert target.read_bytes() == b"the old one"


@pytest.mark.parametrize("url", ["127.0.0.1:8188", "ftp://host", "http://", "http://me:secret@host"])
def test_what_is_no_url_is_refused_without_showing_a_password(url: str) -> None:
    with pytest.raises(BadInput) as caught:
        ComfyClient(url)
    assert "secret" not in str(caught.value)


def test_a_page_that_is_not_comfyui_is_told() -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>hello</html>", content_type="text/html")

    async def scenario() -> None:
        async with serving({"GET /system_stats": page}) as url, ComfyClient(url) as client:
            await client.system_stats()

    with pytest.raises(CheckFailed, match="is that ComfyUI"):
        asyncio.run(scenario())


def test_the_recorded_messages_of_a_real_job_are_understood() -> None:
    prompt_id = RECORDED["check_prompt"]["body"]["prompt_id"]
    job = Execution(prompt_id, 9)
    for message in RECORDED["check_ws_messages"]:
        job.observe(message, now=100.0)
    assert job.finished
    assert job.nodes_executed == ["4", "1", "2", "3"]
    assert [update["percentage"] for update in job.progress_updates] == [100.0] * 4
    job.conclude(RECORDED["check_history"]["body"][prompt_id])
    assert job.failure is None
    assert [file.filename for file in job.outputs] == ["check_00001_.mp4"]


def test_messages_of_other_jobs_and_nonsense_change_nothing() -> None:
    job = Execution("mine", 1)
    for message in (
        {"type": "executing", "data": {"node": "1", "prompt_id": "other"}},
        {"type": "progress", "data": {"node": "1", "value": "x", "max": 0, "prompt_id": "mine"}},
        {"type": "progress_state", "data": {"nodes": [], "prompt_id": "mine"}},
        {"type": "status"},
        {},
    ):
        assert job.observe(message, now=0.0) == []
    assert (job.finished, job.nodes_executed, job.progress_updates) == (False, [], [])


def test_progress_reported_twice_is_counted_once() -> None:
    job = Execution("p", 1)
    for step in (1, 2, 2):
        data = {"node": "9", "value": step, "max": 4, "prompt_id": "p"}
        job.observe({"type": "progress", "data": data}, now=step)
        job.observe({"type": "progress_state", "data": {"nodes": {"9": data}, "prompt_id": "p"}}, now=step)
    assert [(update["time"], update["percentage"]) for update in job.progress_updates] == [
        (1, 25.0),
        (2, 50.0),
    ]


@pytest.mark.parametrize(
    ("recording", "sentence"),
    [
        (
            "history_failed_at_model_load",
            "node 92:48 (LTXVAudioVAELoader) failed: RuntimeError: ERROR: VAE is",
        ),
        ("history_after_interrupt", "the job was interrupted at node 2 (CreateVideo)"),
    ],
)
def test_a_failed_job_says_where_and_why(recording: str, sentence: str) -> None:
    ((prompt_id, entry),) = RECORDED[recording]["body"].items()
    job = Execution(prompt_id, 0)
    job.conclude(entry)
    assert job.failure is not None
    assert job.failure.startswith(sentence)


def test_files_are_found_under_every_key_and_only_once() -> None:
    item = {"filename": "a.mp4", "subfolder": "video", "type": "output"}
    sound = {"filename": "b.flac", "subfolder": "", "type": "temp"}
    outputs = {"3": {"images": [item], "videos": [item], "animated": [True]}, "4": {"audio": [sound]}}
    assert output_files(outputs) == [
        OutputFile("a.mp4", "video", "output", "3", "images"),
        OutputFile("b.flac", "", "temp", "4", "audio"),
    ]


@pytest.mark.parametrize(
    ("recording", "sentence"),
    [
        ("prompt_below_min", "smaller than min"),
        ("prompt_no_outputs", "Prompt has no outputs"),
        ("prompt_wrong_link_type", "Return type mismatch"),
        ("prompt_missing_model", "ckpt_name 'nope.safetensors' is not among the choices"),
    ],
)
def test_every_kind_of_refusal_is_put_in_words(recording: str, sentence: str) -> None:
    assert sentence in describe_rejection(RECORDED[recording]["body"])
