"""The wrapper as its clients and its operator see it: real processes, a stand-in ComfyUI behind them."""

import asyncio
import base64
import hashlib
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin
from urllib.request import urlopen

import pytest
from tests.integration.no_delivery import NoDelivery
from tests.integration.wrapper_host import (
    LONG,
    LTXOPS,
    SIGNAL,
    Host,
    call,
    free_port,
    graph,
    occupy,
    wait_for,
)

from ltxops.wrapper.backends import Backends
from ltxops.wrapper.database import JobDatabase
from ltxops.wrapper.jobs import Jobs
from ltxops.wrapper.requests import parse_request
from ltxops.wrapper.settings import JobSettings
from ltxops.wrapper.store import Store


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Nothing is started yet."""
    host = Host(tmp_path)
    yield host
    host.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Both are started; for tests that leave them as they were."""
    host = Host(tmp_path_factory.mktemp("wrapper"))
    host.start_both("--max-body-bytes", 200_000)
    yield host
    host.close()


def test_a_workflow_is_answered_as_the_document_shows(shared: Host) -> None:
    status, _, envelope = shared.generate(graph(), request_id="job-1", s3={"bucket_name": ""})
    assert status == 200
    assert list(envelope) == ["id", "message", "status", "comfyui_response", "output", "timings"]
    assert (envelope["id"], envelope["status"]) == ("job-1", "completed")
    (item,) = envelope["output"]
    place = Path(item.pop("local_path"))
    assert item == {
        "filename": "check_00001_.mp4",
        "type": "output",
        "subfolder": "video",
        "node_id": "3",
        "output_type": "images",
    }
    assert place == shared.output / "job-1" / "check_00001_.mp4"
    assert place.read_bytes()[4:8] == b"ftyp"
    assert place.samefile(shared.output / "video" / "check_00001_.mp4"), "one file, two names"

    response = envelope["comfyui_response"]
    details = response["execution_details"]
    entry = response[details["prompt_id"]]
    assert set(response) == {details["prompt_id"], "execution_details"}
    assert entry["outputs"]["3"]["images"][0]["filename"] == "check_00001_.mp4"
    assert entry["status"]["status_str"] == "success"
    assert type(entry["prompt"][2]["4"]["inputs"]["noise_seed"]) is int
    assert {"1", "2", "3"} <= set(details["nodes_executed"])
    assert (details["completed"], details["error"]) == (True, None)
    for update in details["progress_updates"]:
        assert set(update) == {"time", "value", "max", "percentage"}
        assert 0 <= update["time"] < 60 and 0 <= update["percentage"] <= 100

    timings = envelope["timings"]
    total = timings.pop("total")
    assert set(timings) == {"queued", "preprocess", "generation", "postprocess"}
    assert sum(timings.values()) == pytest.approx(total, abs=1)


def test_what_was_answered_is_kept(shared: Host) -> None:
    _, _, envelope = shared.generate(graph(), request_id="")
    assert len(envelope["id"]) == 36
    assert shared.result(envelope["id"]) == (200, envelope)
    status, body = shared.result("unknown")
    assert status == 404 and "unknown" in body["message"]
    assert shared.result("a.b")[0] == 400


def test_a_job_that_comfyui_answers_from_its_cache_has_its_files_too(shared: Host) -> None:
    # Without the random seed, which would make it another workflow.
    same = {node: value for node, value in graph(prefix="video/cached").items() if node != "4"}
    for job_id in ("cached-1", "cached-2"):
        status, _, envelope = shared.generate(same, request_id=job_id)
        assert status == 200
        assert [Path(item["local_path"]).parent.name for item in envelope["output"]] == [job_id]
        assert all(Path(item["local_path"]).is_file() for item in envelope["output"])


def test_a_file_that_was_deleted_is_made_again(shared: Host) -> None:
    same = {node: value for node, value in graph(prefix="video/cleaned").items() if node != "4"}
    kept = {"5": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "kept"}}}
    _, _, first = shared.generate({**same, **kept}, request_id="cleaned-1")
    for path in [*shared.output.glob("video/cleaned_*"), *shared.output.glob("cleaned-1/cleaned_*")]:
        path.unlink()
    images = sorted(shared.output.glob("kept_*"))

    status, _, envelope = shared.generate({**same, **kept}, request_id="cleaned-2")
    assert (status, envelope["status"]) == (200, "completed")
    assert {item["node_id"] for item in envelope["output"]} == {"3", "5"}
    for item in envelope["output"]:
        place = Path(item["local_path"])
        assert place.is_file() and place.parent == shared.output / "cleaned-2"
        assert place.samefile(shared.output / item["subfolder"] / item["filename"])
    assert sorted(shared.output.glob("kept_*")) == images, "what was there is not made again"
    response = envelope["comfyui_response"]
    details = response["execution_details"]
    assert details["nodes_executed"] == ["3"]
    prompt = response[details["prompt_id"]]["prompt"][2]
    assert [node for node, value in prompt.items() if "ltxops_run" in value["inputs"]] == ["3"]
    timings = envelope["timings"]
    assert sum(timings.values()) == pytest.approx(2 * timings["total"], abs=1)
    assert shared.result("cleaned-2") == (200, envelope)
    assert first["status"] == "completed"


def test_the_same_request_is_one_job_and_another_body_is_refused(  # R61
    shared: Host, background: Callable[..., "Future[Any]"]
) -> None:
    wanted = graph(49, "video/joined")
    answers = [background(shared.generate, wanted, request_id="joined") for _ in range(5)]
    bodies = [answer.result()[2] for answer in answers]
    assert all(body == bodies[0] for body in bodies) and bodies[0]["status"] == "completed"
    assert shared.generate(wanted, request_id="joined")[2] == bodies[0], "later it is the same answer too"
    assert len(list((shared.output / "video").glob("joined_*"))) == 1, "it ran once"
    status, _, body = shared.generate(graph(50, "video/joined"), request_id="joined")
    assert status == 409 and "joined" in body["message"]


@pytest.mark.parametrize("request_id", ["a/b", "../x", ".", "a\0b", "é", "x" * 10_000])
def test_an_id_that_cannot_name_a_job_is_refused(shared: Host, request_id: str) -> None:  # R61
    before = set(shared.output.iterdir())
    status, _, body = shared.generate(graph(), request_id=request_id)
    assert status == 400 and body["error"]["type"] == "invalid_request_id"
    assert set(shared.output.iterdir()) == before


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"input": {}}',
        b'{"input": {"workflow_json": []}}',
        b'{"input": {"workflow_json": {"1": null}}}',
        b'{"input":{"workflow_json":' + b'{"a":' * 20_000 + b"1" + b"}" * 20_002,
        b'{"input": {"workflow_json": {}, "s3": {"bucket_name": "b"}}}',
    ],
    ids=lambda raw: repr(raw[:30]),
)
def test_a_hostile_body_is_refused_at_once(shared: Host, raw: bytes) -> None:  # R60
    begun = time.monotonic()
    status, _, body = call(f"{shared.url}/generate/sync", raw=raw)
    assert status == 400 and body["message"] and body["status"] == "failed"
    assert time.monotonic() - begun < 30


def test_a_body_over_the_limit_is_refused_and_the_next_one_works(shared: Host) -> None:  # R60
    for size in (200_001, 30_000_000):
        status, _, body = call(f"{shared.url}/generate/sync", raw=b"x" * size)
        assert status == 413 and "200000 bytes" in body["message"]
    assert shared.generate(graph(), request_id="after-413")[0] == 200


def test_text_that_is_no_utf8_comes_back_as_it_went(shared: Host) -> None:  # R60
    wanted = graph()
    wanted["5"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "half a pair \ud83d, a NUL \0, é"}}
    status, _, envelope = shared.generate(wanted, request_id="half")
    assert status == 200
    response = envelope["comfyui_response"]
    assert response[response["execution_details"]["prompt_id"]]["prompt"][2]["5"] == wanted["5"]
    assert shared.result("half") == (200, envelope)


def test_comfyuis_own_errors_reach_the_client_and_leave_no_job(shared: Host) -> None:  # R60
    wrong = graph()
    wrong["3"]["inputs"]["codec"] = "h999"
    status, _, body = shared.generate(wrong, request_id="wrong")
    _, _, direct = call(f"{shared.engine_url}/prompt", {"prompt": wrong})
    assert status == 400
    assert (body["error"], body["node_errors"]) == (direct["error"], direct["node_errors"])
    assert body["node_errors"]["3"]["errors"][0]["type"] == "value_not_in_list"
    assert shared.result("wrong")[0] == 404
    assert shared.generate(graph(), request_id="wrong")[0] == 200, "the id is free for the corrected workflow"
    unknown = {"1": {"class_type": "NoSuchNode", "inputs": {}}}
    status, _, body = shared.generate(unknown)
    assert status == 400 and "NoSuchNode" in json.dumps(body)
    assert shared.generate({})[2]["error"]["type"] == "prompt_no_outputs"


def test_the_api_documents_itself(shared: Host) -> None:
    _, _, document = call(f"{shared.url}/openapi.json")
    assert {"/generate/sync", "/result/{request_id}", "/health"} <= set(document["paths"])
    absent = ("nothing", "docs/", "docs/redoc.standalone.js", "redoc")
    for path in (*absent, "health/", "generate/sync/", "result/x/"):
        status, headers, body = call(f"{shared.url}/{path}", {} if "sync" in path else None)
        assert (status, headers["content-type"]) == (404, "application/json"), path
        assert body["status"] == "failed" and "location" not in headers


class Page(HTMLParser):
    """The addresses that a page names in its tags, and its inline scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = [value for name, value in attrs if name in ("src", "href") and value]
        self.addresses += named
        self._in_script = tag == "script" and not named

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)


def test_the_docs_page_needs_nothing_from_outside(shared: Host) -> None:
    with urlopen(f"{shared.url}/docs", timeout=60) as response:
        headers, html = response.headers, response.read().decode()
    page = Page(html)
    assert headers["content-type"] == "text/html; charset=utf-8" and "//" not in html
    found = {}
    for address in page.addresses:
        # Relative, so that a tunnel's port stays in it; the gateway passes what is below.
        assert address.startswith("docs/"), address
        with urlopen(urljoin(f"{shared.url}/docs", address), timeout=60) as response:
            assert response.headers["x-content-type-options"] == "nosniff"
            found[address] = (response.headers["content-type"], response.read())
    assert {address: media_type for address, (media_type, _) in found.items()} == {
        "docs/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
        "docs/swagger-ui.css": "text/css; charset=utf-8",
        "docs/favicon.png": "image/png",
    }
    assert b"SwaggerUIBundle" in found["docs/swagger-ui-bundle.js"][1]
    assert b".swagger-ui" in found["docs/swagger-ui.css"][1]
    assert found["docs/favicon.png"][1].startswith(b"\x89PNG")

    (script,) = page.scripts
    schema = re.search(r"\burl: '(.*?)'", script)
    assert schema and schema[1] == "openapi.json"
    assert '"validatorUrl": null' in script


def test_the_docs_page_forbids_the_browser_everything_from_outside(shared: Host) -> None:
    with urlopen(f"{shared.url}/docs", timeout=60) as response:
        policy, html = response.headers["content-security-policy"], response.read().decode()
    allowed = {words[0]: set(words[1:]) for words in map(str.split, policy.split(";"))}
    assert allowed["default-src"] == {"'none'"}
    (script,) = Page(html).scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert allowed["script-src"] == {"'self'", f"'sha256-{digest}'"}
    assert {"'self'", "'none'", "'unsafe-inline'", "data:", f"'sha256-{digest}'"} >= set().union(
        *allowed.values()
    )
    # Without these two the page stays empty.
    assert "'self'" in allowed["style-src"] and "'self'" in allowed["connect-src"]


def test_a_client_that_goes_away_loses_nothing(shared: Host) -> None:
    occupy(shared.engine_url)
    wanted = {"request_id": "left", "workflow_json": graph(prefix="video/left")}
    body = json.dumps({"input": wanted}).encode()
    head = f"POST /generate/sync HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", shared.port), 60) as client:
        client.sendall(head + body)
        wait_for(lambda: shared.result("left")[0] == 200)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b"", "the wrapper has seen it go"
    assert shared.result("left")[1]["status"] == "queued", "it went away in time"
    call(f"{shared.engine_url}/interrupt", {})
    wait_for(lambda: shared.result("left")[1]["status"] == "completed")


def test_one_who_stops_waiting_leaves_the_others_their_answer(shared: Host, tmp_path: Path) -> None:
    deliverer = NoDelivery()
    body = json.dumps({"input": {"workflow_json": graph(120, "video/both")}}).encode()
    request = parse_request(body, deliverer.check)

    async def wait_in_pairs() -> str:
        with JobDatabase(tmp_path / "state") as database:
            async with Backends([shared.engine_url]) as backends:
                settings = JobSettings(shared.output, max_waiting=1, deadline_seconds=60)
                store = Store(database)
                jobs = Jobs(store, backends, deliverer, settings)

                async def wait() -> str:
                    outcome = await jobs.outcome(await jobs.start(request, time.monotonic()))
                    return str(outcome.body["status"])

                waiters = [asyncio.create_task(wait()) for _ in range(2)]
                await asyncio.sleep(0.01)
                waiters[0].cancel()
                status = await waiters[1]
                store.close()
                return status

    assert asyncio.run(wait_in_pairs()) == "completed"


def test_an_interrupted_generation_is_a_failure_with_its_reason(
    shared: Host, background: Callable[..., "Future[Any]"]
) -> None:
    answer = background(shared.generate, LONG, request_id="interrupted")
    prompt_id = shared.running_prompt()
    wait_for(lambda: shared.result("interrupted")[1]["status"] == "generating")
    call(f"{shared.engine_url}/interrupt", {})
    status, _, envelope = answer.result()
    assert (status, envelope["status"]) == (422, "failed")
    assert "interrupted" in envelope["message"]
    details = envelope["comfyui_response"]["execution_details"]
    assert (details["completed"], details["error"]) == (False, envelope["message"])
    assert envelope["comfyui_response"][prompt_id]["status"]["status_str"] == "error"
    assert shared.result("interrupted") == (200, envelope)


def test_too_many_jobs_are_told_to_come_back_and_wrong_ones_still_hear_why(  # R59 R60
    host: Host, background: Callable[..., "Future[Any]"]
) -> None:
    host.start_engine()
    wrapper = host.start_wrapper("--max-waiting", 2)
    running = background(host.generate, LONG, request_id="running")
    host.running_prompt()
    wrong = graph()
    wrong["1"]["inputs"]["width"] = "wide"
    begun = time.monotonic()
    status, _, body = host.generate(wrong, request_id="wrong")
    assert status == 400 and set(body["node_errors"]) == {"1"}, "refused while another job runs"
    assert time.monotonic() - begun < 30
    assert host.result("wrong")[0] == 404
    assert host.generate(graph(), request_id="running")[0] == 409, "while it runs, too"  # R61
    waiting = [background(host.generate, graph(), request_id=f"waiting-{n}") for n in range(2)]
    wait_for(lambda: call(f"{host.url}/health")[2]["jobs"] == {"queued": 2, "running": 1})
    queue = call(f"{host.engine_url}/queue")[2]
    assert (len(queue["queue_running"]), queue["queue_pending"]) == (1, []), "the others wait in the wrapper"
    info = call(f"{host.url}/queue-info")[2]
    assert (info["queued"], info["running"], info["limit"]) == (2, 1, 3)
    assert host.result("waiting-0")[1]["status"] == "queued"
    status, headers, body = host.generate(graph(), request_id="too-many")
    assert status == 503 and int(headers["retry-after"]) > 0 and "3 jobs" in body["message"]
    time.sleep(0.5)
    call(f"{host.engine_url}/interrupt", {})
    assert running.result()[0] == 422
    for answer in waiting:
        status, _, envelope = answer.result()
        assert status == 200 and envelope["timings"]["queued"] > 400
    assert wrapper.process.poll() is None


def test_a_comfyui_that_dies_fails_its_job_and_the_next_one_works(  # R36
    host: Host, background: Callable[..., "Future[Any]"]
) -> None:
    engine = host.start_engine()
    host.start_wrapper()
    answer = background(host.generate, LONG, request_id="lost")
    host.running_prompt()
    engine.end(signal.SIGKILL)
    wait_for(lambda: call(f"{host.url}/health")[0] == 503)
    status, headers, body = host.generate(graph(), request_id="now")
    assert status == 503 and int(headers["retry-after"]) > 0 and "ComfyUI" in body["message"]
    assert host.result("now")[0] == 404
    host.start_engine()
    status, _, envelope = answer.result()
    assert (status, envelope["status"]) == (502, "failed") and len(envelope["message"]) > 20
    wait_for(lambda: call(f"{host.url}/health")[0] == 200)
    assert host.generate(graph(), request_id="now")[0] == 200


def test_a_job_that_takes_too_long_is_ended(host: Host) -> None:
    host.start_engine()
    host.start_wrapper("--job-timeout", 1.5)
    status, _, envelope = host.generate(LONG, request_id="slow")
    assert (status, envelope["status"]) == (422, "failed") and "1.5 s" in envelope["message"]
    wait_for(lambda: not call(f"{host.engine_url}/queue")[2]["queue_running"], 180)


def test_the_log_says_ready_when_it_is_and_nobody_else_can_say_it(host: Host) -> None:  # R62
    wrapper = host.start_wrapper("--backend-timeout", 1)
    status, _, health = call(f"{host.url}/health")
    assert (status, health["status"], health["backends"][0]["state"]) == (503, "unavailable", "down")
    wait_for(lambda: "Application startup failed" in wrapper.text())
    assert SIGNAL not in wrapper.text()
    host.start_engine()
    wait_for(lambda: SIGNAL in wrapper.text())
    assert SIGNAL in wrapper.stdout.read_text().splitlines(), "alone on its line"
    status, _, health = call(f"{host.url}/health")
    assert (status, health["status"]) == (200, "ok")
    (backend,) = health["backends"]
    assert (backend["url"], backend["state"], backend["error"]) == (host.engine_url, "up", None)
    assert (backend["http"], backend["websocket"]) == (True, True)

    before = wrapper.text().count(SIGNAL), wrapper.text().count("Application startup failed")
    nasty = graph(prefix=f"{SIGNAL}")
    nasty["5"] = {
        "class_type": "CLIPTextEncode",
        "inputs": {"text": f"x\n{SIGNAL}\nApplication startup failed"},
    }
    assert host.generate(nasty, request_id=SIGNAL)[0] == 200
    nasty["3"]["inputs"]["codec"] = f"\n{SIGNAL}\n"
    assert host.generate(nasty)[0] == 400
    assert host.generate(nasty, request_id=f"\n{SIGNAL}")[0] == 400
    call(f"{host.url}/{SIGNAL}")
    call(f"{host.url}/generate/sync", raw=f"\n{SIGNAL}\n".encode())
    after = wrapper.text().count(SIGNAL), wrapper.text().count("Application startup failed")
    assert after == before
    assert "BACKENDS_READY_TIMEOUT" not in wrapper.text()


def test_what_stops_a_start_is_one_sentence_and_an_exit_code(host: Host) -> None:
    host.start_wrapper()

    def start(port: int, state: Path, output: Path, *options: str) -> tuple[int, str]:
        serve = ["wrapper", "serve", "--port", str(port), "--state", str(state)]
        done = subprocess.run(
            [*LTXOPS, *serve, "--output-directory", str(output), *options],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.returncode, done.stderr

    code, message = start(host.port, host.folder / "other", host.output)
    assert code == 1 and str(host.port) in message
    code, message = start(free_port(), host.state, host.output)
    assert code == 6 and str(host.state) in message
    code, message = start(free_port(), host.folder / "other", host.folder / "no-such-folder")
    assert code == 2 and "no-such-folder" in message
    code, message = start(free_port(), host.folder / "other", host.output, "--backend", "nonsense")
    assert code == 2 and "nonsense" in message
    assert call(f"{host.url}/health")[0] == 503, "the first one is undisturbed"
