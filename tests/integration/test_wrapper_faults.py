"""Jobs on a ComfyUI that answers what it should not: each ends with an answer that is kept."""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.integration.no_delivery import NoDelivery

from ltxops.errors import CheckFailed
from ltxops.timing import in_time
from ltxops.wrapper.backends import Backends
from ltxops.wrapper.database import JobDatabase
from ltxops.wrapper.deliverer import Deliverer
from ltxops.wrapper.envelope import Outcome
from ltxops.wrapper.jobs import WAITING_BYTES, Jobs
from ltxops.wrapper.needed import needed_paths
from ltxops.wrapper.refusals import Refused
from ltxops.wrapper.requests import JobRequest, parse_request
from ltxops.wrapper.schema import GenerateInput, OutputItem, S3Settings, WebhookSettings
from ltxops.wrapper.settings import JobSettings
from ltxops.wrapper.store import Store

GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64}},
    "3": {"class_type": "SaveVideo", "inputs": {"video": ["1", 0]}},
}
CLIP = {"filename": "clip_00001_.mp4", "subfolder": "video", "type": "output"}


SUCCESS: dict[str, Any] = {"status_str": "success", "completed": True, "messages": []}


def failure(kind: str, message: str) -> dict[str, Any]:
    """Return the status of a job whose node 1 raised this."""
    data = {
        "node_id": "1",
        "node_type": "EmptyImage",
        "exception_type": kind,
        "exception_message": message,
    }
    return {"status_str": "error", "completed": False, "messages": [["execution_error", data]]}


class Engine:
    """A ComfyUI whose jobs are over at once, with `outputs` as what they made and no file behind it.

    `prompts` are the graphs that it was given. A prompt is refused once there are `accepts` of them. `asked`
    are the requests that it had besides.
    """

    def __init__(self, outputs: object, accepts: int = 9, status: dict[str, Any] | None = None) -> None:
        self.outputs, self.accepts, self.status = outputs, accepts, status or SUCCESS
        self.prompts: list[dict[str, Any]] = []
        self.known: list[str] = []
        self.asked: list[tuple[str, Any]] = []
        self.sockets = 0
        self.over = self.speaks = True
        self.sixth_socket = asyncio.Event()
        self.asked_for_a_file = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __aenter__(self) -> str:
        app = web.Application()
        app.add_routes(
            [
                web.get("/ws", self._socket),
                web.get("/system_stats", self._stats),
                web.get("/queue", self._queue),
                web.post("/{name:queue|free|interrupt}", self._told),
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
        """A socket that is lost after its greeting: what became of a job is in the history."""
        if not self.speaks:
            raise web.HTTPNotFound
        self.sockets += 1
        if self.sockets == 6:
            self.sixth_socket.set()
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}}})
        return socket

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response({})

    async def _queue(self, request: web.Request) -> web.Response:
        running = [] if self.over else [[1, prompt_id] for prompt_id in self.known]
        return web.json_response({"queue_running": running, "queue_pending": []})

    async def _told(self, request: web.Request) -> web.Response:
        self.asked.append((request.match_info["name"], await request.json()))
        return web.Response()

    async def _prompt(self, request: web.Request) -> web.Response:
        if len(self.prompts) >= self.accepts:
            return web.json_response({"error": {"message": "no more", "details": ""}}, status=400)
        body = await request.json()
        self.prompts.append(body["prompt"])
        self.known.append(body["prompt_id"])
        return web.json_response({"prompt_id": body["prompt_id"], "number": 1, "node_errors": {}})

    async def _history(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["id"]
        if prompt_id not in self.known or not self.over:
            return web.json_response({})
        return web.json_response({prompt_id: {"outputs": self.outputs, "status": self.status}})

    async def _view(self, request: web.Request) -> web.Response:
        self.asked_for_a_file.set()
        await self.may_answer.wait()
        return web.Response(status=404)


Question = Callable[[Jobs, JobRequest, Backends], Coroutine[Any, Any, None]]


def ask(
    folder: Path,
    engines: "Engine | list[Engine]",
    question: Question,
    *,
    retry: bool = False,
    deliverer: Deliverer | None = None,
    wanted: dict[str, Any] | None = None,
) -> None:
    """Let `question` ask a wrapper in front of `engines` for the job "wanted"."""
    body = json.dumps({"input": wanted or {"request_id": "wanted", "workflow_json": GRAPH}}).encode()
    deliverer = deliverer or NoDelivery()
    settings = JobSettings(folder, max_waiting=1, deadline_seconds=20, retry_lost=retry)

    async def serve() -> None:
        async with contextlib.AsyncExitStack() as stack:
            several = engines if isinstance(engines, list) else [engines]
            urls = [await stack.enter_async_context(engine) for engine in several]
            backends = await stack.enter_async_context(Backends(urls))
            store = Store(stack.enter_context(JobDatabase(folder / "state")))
            jobs = Jobs(store, backends, deliverer, settings)
            request = parse_request(body, deliverer.check)
            await backends.probe()
            await in_time(question(jobs, request, backends), 20)
            await jobs.stop()
            store.close()

    asyncio.run(serve())


async def answer(jobs: Jobs, request: JobRequest) -> Outcome:
    """Return the answer to a request, refused or not."""
    return await jobs.outcome(await jobs.start(request, time.monotonic()))


def test_a_file_that_is_still_missing_after_a_second_run_is_said_in_one_sentence(tmp_path: Path) -> None:
    engine = Engine({"3": {"images": [CLIP, {**CLIP, "filename": "clip_00002_.mp4"}]}})

    async def question(jobs: Jobs, request: JobRequest, backends: Backends) -> None:
        outcome = await answer(jobs, request)
        assert (outcome.http_status, outcome.body["status"]) == (502, "failed")
        message = outcome.body["message"]
        assert "video/clip_00001_.mp4 and 1 more" in message and str(tmp_path) in message
        assert "\n" not in message and "404" not in message
        assert outcome.body["comfyui_response"]["execution_details"]["prompt_id"] == engine.known[1]
        assert await jobs.find("wanted") == outcome.body

    ask(tmp_path, engine, question)
    first, second = engine.prompts
    assert first == GRAPH
    assert second["3"]["inputs"].pop("ltxops_run")
    assert second == GRAPH, "nothing else was changed"


def test_files_are_listed_under_whatever_name_a_node_reports_them(tmp_path: Path) -> None:
    names = {"images": "a.png", "videos": "b.mp4", "gifs": "c.webp", "audio": "d.flac"}
    listed = {key: [{"filename": name, "subfolder": "", "type": "output"}] for key, name in names.items()}
    for name in names.values():
        (tmp_path / name).write_bytes(name.encode())
    engine = Engine({"3": {**listed, "text": ["no file"]}})

    async def question(jobs: Jobs, request: JobRequest, backends: Backends) -> None:
        output = (await answer(jobs, request)).body["output"]
        assert {item["output_type"]: item["filename"] for item in output} == names
        assert [item["local_path"] for item in output] == [str(folder / name) for name in names.values()]

    folder = tmp_path / "wanted"
    ask(tmp_path, engine, question)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {n: n for n in names.values()}


def test_files_of_a_node_that_is_not_in_the_graph_are_not_run_for(tmp_path: Path) -> None:
    engine = Engine({"3.0.0.7": {"images": [CLIP]}})

    async def question(jobs: Jobs, request: JobRequest, backends: Backends) -> None:
        outcome = await answer(jobs, request)
        assert outcome.http_status == 502 and CLIP["filename"] in outcome.body["message"]

    ask(tmp_path, engine, question)
    assert len(engine.prompts) == 1


def test_a_second_run_that_is_refused_fails_the_job_and_keeps_it(tmp_path: Path) -> None:
    engine = Engine({"3": {"images": [CLIP]}}, accepts=1)

    async def question(jobs: Jobs, request: JobRequest, backends: Backends) -> None:
        outcome = await answer(jobs, request)
        assert (outcome.http_status, outcome.body["status"]) == (422, "failed")
        assert "no more" in outcome.body["message"]
        assert await jobs.find("wanted") == outcome.body, "ComfyUI took it once: it is a job"

    ask(tmp_path, engine, question)


def test_a_stop_while_files_are_looked_for_begins_no_second_run(tmp_path: Path) -> None:
    engine = Engine({"3": {"images": [CLIP]}})

    async def question(jobs: Jobs, request: JobRequest, backends: Backends) -> None:
        engine.may_answer.clear()
        asked = asyncio.create_task(answer(jobs, request))
        await engine.asked_for_a_file.wait()
        stopping = asyncio.create_task(jobs.stop())
        await asyncio.sleep(0)
        engine.may_answer.set()
        await stopping
        outcome = await asked
        assert outcome.http_status == 503 and "goes on when it is back" in outcome.body["message"]

    ask(tmp_path, engine, question)
    assert len(engine.prompts) == 1


def test_a_failure_of_the_wrapper_itself_is_kept_as_the_answer(tmp_path: Path) -> None:  # R58
    engine = Engine(["outputs are no list in any ComfyUI"])

    async def question(jobs: Jobs, request: JobRequest, backends: Backends) -> None:
        outcome = await answer(jobs, request)
        assert (outcome.http_status, outcome.body["status"]) == (500, "failed")
        assert outcome.body["timings"]["total"] > 0
        assert await jobs.find("wanted") == outcome.body
        again = await answer(jobs, request)
        assert (again.http_status, again.body) == (500, outcome.body), "the same job, the same answer"

    ask(tmp_path, engine, question)
    assert len(engine.prompts) == 1


OUT_OF_MEMORY = failure("torch.OutOfMemoryError", "Allocation on device 0 would exceed allowed memory.")
BROKEN = failure("torch.AcceleratorError", "CUDA error: an illegal memory access was encountered")


def test_out_of_memory_is_an_honest_failure_and_memory_is_freed(tmp_path: Path) -> None:  # R36
    engine = Engine({}, status=OUT_OF_MEMORY)

    async def question(jobs: Jobs, request: JobRequest, backends: Backends) -> None:
        outcome = await answer(jobs, request)
        assert (outcome.http_status, outcome.body["status"]) == (422, "failed")
        assert "ran out of memory" in outcome.body["message"] and "node 1" in outcome.body["message"]
        assert outcome.body["comfyui_response"]["execution_details"]["error"] == outcome.body["message"]
        assert backends.healthy(), "the next job may fit"

    ask(tmp_path, engine, question)
    assert engine.asked == [("free", {"unload_models": True, "free_memory": True})]


def test_a_broken_gpu_gets_no_more_jobs_until_comfyui_restarts(tmp_path: Path) -> None:
    engine = Engine({}, status=BROKEN)

    async def question(jobs: Jobs, request: JobRequest, backends: Backends) -> None:
        outcome = await answer(jobs, request)
        assert outcome.http_status == 502 and "GPU" in outcome.body["message"]
        (backend,) = backends.report()
        assert backend.state == "faulty" and not backends.healthy()
        await backends.probe()
        assert backends.report()[0].state == "faulty", "it answers, and its GPU is as broken as before"
        other = JobRequest("other", GRAPH, "fingerprint")
        with pytest.raises(Refused, match="restart ComfyUI") as refused:
            await jobs.start(other, time.monotonic())
        assert refused.value.status == 503 and len(engine.prompts) == 1
        engine.known.clear()  # what a restart does to a history in memory
        engine.status = SUCCESS
        await backends.probe()
        assert backends.healthy()
        assert (await answer(jobs, other)).http_status == 200

    ask(tmp_path, engine, question)


def test_a_job_of_a_broken_gpu_is_run_on_another(tmp_path: Path) -> None:
    engines = [Engine({}, status=BROKEN), Engine({})]

    async def question(jobs: Jobs, request: JobRequest, backends: Backends) -> None:
        outcome = await answer(jobs, request)
        assert (outcome.http_status, outcome.body["status"]) == (200, "completed")
        assert [one.state for one in backends.report()] == ["faulty", "up"]

    ask(tmp_path, engines, question, retry=True)
    assert [len(engine.prompts) for engine in engines] == [1, 1]


def test_a_job_is_run_once_more_only(tmp_path: Path) -> None:
    engines = [Engine({}, status=BROKEN), Engine({}, status=BROKEN), Engine({})]

    async def question(jobs: Jobs, request: JobRequest, backends: Backends) -> None:
        assert (await answer(jobs, request)).http_status == 502

    ask(tmp_path, engines, question, retry=True)
    assert [len(engine.prompts) for engine in engines] == [1, 1, 0], "one graph must not break every GPU"


def test_a_socket_that_is_lost_again_and_again_loses_no_job(tmp_path: Path) -> None:
    engine = Engine({})
    engine.over = False

    async def question(jobs: Jobs, request: JobRequest, backends: Backends) -> None:
        asked = asyncio.create_task(answer(jobs, request))
        await engine.sixth_socket.wait()
        assert not asked.done()
        engine.over = True
        assert (await asked).http_status == 200

    ask(tmp_path, engine, question)
    assert len(engine.prompts) == 1


def test_another_clients_job_is_never_interrupted(tmp_path: Path) -> None:
    """Ours has just ended when it is cancelled: what runs now is somebody else's."""
    engine = Engine({})
    engine.over = False

    async def question(jobs: Jobs, request: JobRequest, backends: Backends) -> None:
        job = await jobs.start(request, time.monotonic())
        engine.known[:] = ["theirs"]
        envelope = await jobs.cancel("wanted")
        assert envelope is not None and envelope["status"] == "cancelled"
        assert (await jobs.outcome(job)).body == envelope

    ask(tmp_path, engine, question)
    assert [name for name, _ in engine.asked] == ["queue"], "its own was taken out, and nothing interrupted"


class Notary(NoDelivery):
    """Delivers on paper: fetches under a made-up name, uploads as `problem` says, notes every end."""

    def __init__(self, problem: str | None = None) -> None:
        self.problem = problem
        self.announced: list[tuple[str, str, WebhookSettings | None]] = []
        self.dropped: list[str] = []

    def check(self, wanted: GenerateInput) -> None:
        """Take everything."""

    async def fetch_inputs(
        self, job_id: str, graph: Mapping[str, Any], input_directory: Path | None
    ) -> dict[str, Any]:
        """Give every picture the same name, and none to those that are nowhere."""
        text = json.dumps(graph)
        if "nowhere" in text:
            raise CheckFailed("https://example.org/nowhere.png answered 404")
        replaced: dict[str, Any] = json.loads(text.replace("https://example.org/a.png", f"{job_id}/1.png"))
        return replaced

    async def drop_inputs(self, job_id: str, input_directory: Path | None) -> None:
        """Note it."""
        self.dropped.append(job_id)

    async def upload(
        self, job_id: str, items: list[OutputItem], s3: S3Settings | None
    ) -> tuple[list[OutputItem], str | None]:
        """Leave the files, and say what there is to say."""
        return items, self.problem

    async def announce(
        self, job_id: str, envelope: Mapping[str, Any], webhook: WebhookSettings | None
    ) -> None:
        """Note it."""
        self.announced.append((job_id, envelope["status"], webhook))


def picture(url: str, **fields: Any) -> dict[str, Any]:
    """Return a request for a job that loads a picture."""
    loads = {"1": {"class_type": "LoadImage", "inputs": {"image": url}}}
    return {"request_id": "wanted", "workflow_json": loads, **fields}


def test_what_urls_lead_to_is_submitted_and_the_end_is_announced(tmp_path: Path) -> None:
    engine, notary = Engine({}), Notary()

    async def question(jobs: Jobs, request: JobRequest, backends: Backends) -> None:
        assert (await answer(jobs, request)).http_status == 200

    webhook: dict[str, Any] = {"url": "https://example.org/done", "extra_params": {"user": 1}}
    wanted = picture("https://example.org/a.png", webhook=webhook)
    ask(tmp_path, engine, question, deliverer=notary, wanted=wanted)
    assert engine.prompts == [{"1": {"class_type": "LoadImage", "inputs": {"image": "wanted/1.png"}}}]
    assert notary.announced == [("wanted", "completed", WebhookSettings(**webhook))]
    assert notary.dropped == ["wanted"]


def test_an_input_that_cannot_be_fetched_fails_the_job(tmp_path: Path) -> None:
    engine, notary = Engine({}), Notary()

    async def question(jobs: Jobs, request: JobRequest, backends: Backends) -> None:
        outcome = await answer(jobs, request)
        assert (outcome.http_status, outcome.body["status"]) == (422, "failed")
        assert outcome.body["message"] == "https://example.org/nowhere.png answered 404"

    wanted = picture("https://example.org/nowhere.png")
    ask(tmp_path, engine, question, deliverer=notary, wanted=wanted)
    assert engine.prompts == [] and notary.announced == [("wanted", "failed", None)]


def test_a_graph_that_is_refused_after_its_inputs_came_is_a_job_that_failed(tmp_path: Path) -> None:
    engine, notary = Engine({}, accepts=0), Notary()

    async def question(jobs: Jobs, request: JobRequest, backends: Backends) -> None:
        outcome = await answer(jobs, request)
        assert outcome.http_status == 422 and "no more" in outcome.body["message"]
        assert await jobs.find("wanted") == outcome.body

    ask(tmp_path, engine, question, deliverer=notary, wanted=picture("https://example.org/a.png"))


def test_files_of_a_failed_upload_are_kept_and_listed(tmp_path: Path) -> None:  # R56
    (tmp_path / "video").mkdir()
    (tmp_path / "video" / CLIP["filename"]).write_bytes(b"clip")
    engine, notary = Engine({"3": {"images": [CLIP]}}), Notary("the bucket answered 403")

    async def question(jobs: Jobs, request: JobRequest, backends: Backends) -> None:
        outcome = await answer(jobs, request)
        assert (outcome.http_status, outcome.body["status"]) == (502, "failed")
        assert outcome.body["message"] == "the bucket answered 403"
        (item,) = outcome.body["output"]
        assert item["local_path"] == str(tmp_path / "wanted" / CLIP["filename"]) and "url" not in item
        needed = needed_paths(tmp_path / "state" / "jobs.sqlite3", grace_seconds=600)
        assert needed == {tmp_path / "video" / CLIP["filename"], Path(item["local_path"])}

    ask(tmp_path, engine, question, deliverer=notary)
    assert (tmp_path / "wanted" / CLIP["filename"]).read_bytes() == b"clip"


def test_a_backend_without_websocket_is_down_and_says_so(tmp_path: Path) -> None:
    engine = Engine({})
    engine.speaks = False

    async def question(jobs: Jobs, request: JobRequest, backends: Backends) -> None:
        await backends.probe()
        (backend,) = backends.report()
        assert (backend.state, backend.http, backend.websocket) == ("down", True, False)
        assert backend.error is not None and "/ws" in backend.error
        engine.speaks = True
        await backends.probe()
        assert backends.report()[0].state == "up"

    ask(tmp_path, engine, question)


def test_workflows_that_wait_have_bounded_bytes(tmp_path: Path) -> None:  # R59
    engine = Engine({})
    engine.over = False

    async def question(jobs: Jobs, request: JobRequest, backends: Backends) -> None:
        huge = dataclasses.replace(request, size=WAITING_BYTES * 2)
        job = await jobs.start(huge, time.monotonic())
        with pytest.raises(Refused, match="bytes") as refused:
            await jobs.start(dataclasses.replace(request, id="other"), time.monotonic())
        assert refused.value.status == 503
        engine.over = True
        assert (await jobs.outcome(job)).http_status == 200
        assert await jobs.start(dataclasses.replace(request, id="other"), time.monotonic())

    ask(tmp_path, engine, question)
