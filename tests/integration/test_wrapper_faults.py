"""Jobs on a ComfyUI that answers what it should not: each ends with an answer that is kept."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from ltxops.wrapper.backends import Backends
from ltxops.wrapper.database import JobDatabase
from ltxops.wrapper.jobs import Jobs
from ltxops.wrapper.requests import JobRequest, parse_request

GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64}},
    "3": {"class_type": "SaveVideo", "inputs": {"video": ["1", 0]}},
}
CLIP = {"filename": "clip_00001_.mp4", "subfolder": "video", "type": "output"}


class Engine:
    """A ComfyUI whose jobs are over at once, with `outputs` as what they made and no file behind it.

    `prompts` are the graphs that it was given. A prompt is refused once there are `accepts` of them.
    """

    def __init__(self, outputs: object, accepts: int = 9) -> None:
        self.outputs, self.accepts = outputs, accepts
        self.prompts: list[dict[str, Any]] = []
        self.asked_for_a_file = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __aenter__(self) -> str:
        app = web.Application()
        app.add_routes(
            [
                web.get("/ws", self._socket),
                web.post("/prompt", self._prompt),
                web.get("/history/{id}", self._history),
                web.get("/view", self._view),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        """A socket that is lost at once: what became of a job is in the history."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        return socket

    async def _prompt(self, request: web.Request) -> web.Response:
        if len(self.prompts) >= self.accepts:
            return web.json_response({"error": {"message": "no more", "details": ""}}, status=400)
        self.prompts.append((await request.json())["prompt"])
        return web.json_response({"prompt_id": f"p{len(self.prompts)}", "number": 1, "node_errors": {}})

    async def _history(self, request: web.Request) -> web.Response:
        status = {"status_str": "success", "completed": True, "messages": []}
        return web.json_response({request.match_info["id"]: {"outputs": self.outputs, "status": status}})

    async def _view(self, request: web.Request) -> web.Response:
        self.asked_for_a_file.set()
        await self.may_answer.wait()
        return web.Response(status=404)


def ask(folder: Path, engine: Engine, question: Callable[[Jobs, JobRequest], Awaitable[None]]) -> None:
    """Let `question` ask a wrapper in front of `engine` for the job "wanted"."""
    body = json.dumps({"input": {"request_id": "wanted", "workflow_json": GRAPH}}).encode()

    async def serve() -> None:
        with JobDatabase(folder / "state") as database:
            async with engine as url, Backends([url]) as backends:
                jobs = Jobs(database, backends, folder, max_waiting=1, deadline_seconds=20)
                await asyncio.wait_for(question(jobs, parse_request(body)), 20)
                await jobs.close()

    asyncio.run(serve())


def test_a_file_that_is_still_missing_after_a_second_run_is_said_in_one_sentence(tmp_path: Path) -> None:
    engine = Engine({"3": {"images": [CLIP, {**CLIP, "filename": "clip_00002_.mp4"}]}})

    async def question(jobs: Jobs, request: JobRequest) -> None:
        outcome = await jobs.run(request, time.monotonic())
        assert (outcome.http_status, outcome.body["status"]) == (502, "failed")
        message = outcome.body["message"]
        assert "video/clip_00001_.mp4 and 1 more" in message and str(tmp_path) in message
        assert "\n" not in message and "404" not in message
        assert outcome.body["comfyui_response"]["execution_details"]["prompt_id"] == "p2"
        assert await jobs.find("wanted") == outcome.body

    ask(tmp_path, engine, question)
    first, second = engine.prompts
    assert first == GRAPH
    assert second["3"]["inputs"].pop("ltxops_run")
    assert second == GRAPH, "nothing else was changed"


def test_files_of_a_node_that_is_not_in_the_graph_are_not_run_for(tmp_path: Path) -> None:
    engine = Engine({"3.0.0.7": {"images": [CLIP]}})

    async def question(jobs: Jobs, request: JobRequest) -> None:
        outcome = await jobs.run(request, time.monotonic())
        assert outcome.http_status == 502 and CLIP["filename"] in outcome.body["message"]

    ask(tmp_path, engine, question)
    assert len(engine.prompts) == 1


def test_a_second_run_that_is_refused_fails_the_job_and_keeps_it(tmp_path: Path) -> None:
    engine = Engine({"3": {"images": [CLIP]}}, accepts=1)

    async def question(jobs: Jobs, request: JobRequest) -> None:
        outcome = await jobs.run(request, time.monotonic())
        assert (outcome.http_status, outcome.body["status"]) == (422, "failed")
        assert "no more" in outcome.body["message"]
        assert await jobs.find("wanted") == outcome.body, "ComfyUI took it once: it is a job"

    ask(tmp_path, engine, question)


def test_a_stop_while_files_are_looked_for_begins_no_second_run(tmp_path: Path) -> None:
    engine = Engine({"3": {"images": [CLIP]}})

    async def question(jobs: Jobs, request: JobRequest) -> None:
        engine.may_answer.clear()
        asked = asyncio.create_task(jobs.run(request, time.monotonic()))
        await engine.asked_for_a_file.wait()
        stopping = asyncio.create_task(jobs.stop())
        await asyncio.sleep(0)
        engine.may_answer.set()
        await stopping
        outcome = await asked
        assert outcome.http_status == 502 and "restarted" in outcome.body["message"]

    ask(tmp_path, engine, question)
    assert len(engine.prompts) == 1


def test_a_failure_of_the_wrapper_itself_is_kept_as_the_answer(tmp_path: Path) -> None:  # R58
    engine = Engine(["outputs are no list in any ComfyUI"])

    async def question(jobs: Jobs, request: JobRequest) -> None:
        outcome = await jobs.run(request, time.monotonic())
        assert (outcome.http_status, outcome.body["status"]) == (500, "failed")
        assert outcome.body["timings"]["total"] > 0
        assert await jobs.find("wanted") == outcome.body
        again = await jobs.run(request, time.monotonic())
        assert (again.http_status, again.body) == (500, outcome.body), "the same job, the same answer"

    ask(tmp_path, engine, question)
    assert len(engine.prompts) == 1
