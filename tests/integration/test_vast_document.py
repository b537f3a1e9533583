"""Vast's document of its LTX-2 template, asked of a provisioned host through its gateway, field by field.

Storage is a real S3 server in a process of its own; the test itself serves the picture and takes the
webhooks. All three are on loopback, which the host's operator has opened to requests.
"""

import io
import json
import os
import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit
from urllib.request import Request, urlopen

import av
import pytest
from aiohttp import web
from PIL import Image
from tests.integration.delivery_support import RunningServer, Storage, storage
from tests.integration.demo_host import Demo, new_host
from tests.integration.wrapper_host import LONG, call, graph, occupy, wait_for, waiting_prompt

from ltxops.generation import workflows

SIZE = (256, 128)
STATES = {"queued", "generating", "processing", "completed", "failed", "cancelled"}
#: A form that was sent without being filled in.
NOTHING_OF_S3 = dict.fromkeys(
    ("access_key_id", "secret_access_key", "endpoint_url", "bucket_name", "region"), ""
)


@dataclass
class Rented:
    """A provisioned host, its operator's storage, and everything else that is outside of it."""

    host: Demo
    storage: Storage
    outside: RunningServer

    def ask(self, path: str, body: object = None, *, token: bool = True) -> tuple[int, str, Any]:
        """Return status, media type and what an endpoint answers: an object, or text where it is no JSON."""
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {self.host.token}"
        data = None if body is None else json.dumps(body).encode()
        try:
            answer = urlopen(Request(self.host.url + path, data, headers), timeout=120)
        except HTTPError as error:
            answer = error
        with answer:
            text, kind = answer.read().decode(), answer.headers.get_content_type()
            return answer.status, kind, json.loads(text) if kind == "application/json" else text

    def generate(self, workflow: object, **fields: object) -> tuple[int, Any]:
        status, _, answer = self.ask("/generate/sync", {"input": {"workflow_json": workflow, **fields}})
        return status, answer

    def told(self, path: str, job_id: str) -> dict[str, Any]:
        """Return what the receiver at `path` was told of a job, once it was told."""

        def heard() -> Any:
            bodies = [json.loads(body) for _, where, _, body in self.outside.requests if where == path]
            return next((body for body in bodies if body["id"] == job_id), None)

        found: dict[str, Any] = wait_for(heard, 60)
        return found


async def outside(request: web.Request) -> web.StreamResponse:
    """Serve a picture, and take every webhook."""
    if request.method == "POST":
        return web.Response(status=204)
    picture = io.BytesIO()
    Image.new("RGB", SIZE, (90, 60, 30)).save(picture, "PNG")
    return web.Response(body=picture.getvalue(), content_type="image/png")


@pytest.fixture(scope="module")
def rented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rented]:
    with storage() as server, RunningServer(outside) as other:
        server.ask("PUT", "/of-the-request")
        host = new_host(tmp_path_factory.mktemp("vast"))
        host.settings = {
            "smoke_cases": ["check"],
            "wrapper_environment": {
                "S3_ACCESS_KEY_ID": "host-id",
                "S3_SECRET_ACCESS_KEY": "host-secret",
                "S3_BUCKET_NAME": "bucket",
                "S3_ENDPOINT_URL": server.url,
                "S3_REGION": "eu-west-1",
                "WEBHOOK_URL": f"{other.url}/of-the-host",
                "WRAPPER_ALLOWED_NETWORKS": "127.0.0.0/8",
            },
        }
        host.first = host.run()
        assert host.first.returncode == 0, host.first.stdout[-3000:] + host.first.stderr[-3000:]
        yield Rented(host, server, other)
        assert host.script("--down").returncode == 0
        assert wait_for(lambda: not host.processes())


def two_stages(picture: str | None = None) -> dict[str, Any]:
    """Return the two-stage workflow for a short clip, its size that of `picture` where there is one."""
    values: dict[str, Any] = {"width": 256, "height": 128, "length": 9, "filename_prefix": "video/LTX-2"}
    filled = workflows.fill_unseeded("two-stage", values)
    if picture is not None:
        blank = of_class(filled, "EmptyImage")
        blank["class_type"], blank["inputs"] = "LoadImage", {"image": picture}
    return filled


def of_class(workflow: dict[str, Any], name: str) -> Any:
    return next(node for node in workflow.values() if node["class_type"] == name)


def fetched(url: str) -> bytes:
    with urlopen(url, timeout=60) as answer:
        content: bytes = answer.read()
        return content


def test_the_primary_endpoint_answers_with_every_documented_field(rented: Rented) -> None:
    workflow = two_stages(f"{rented.outside.url}/picture.png")
    extra = {"user_id": "12345", "project_id": "abc-def"}
    status, answer = rented.generate(
        workflow, request_id="", s3=NOTHING_OF_S3, webhook={"url": "", "extra_params": extra}
    )
    assert (status, answer["status"]) == (200, "completed"), answer["message"]
    assert set(answer) == {"id", "message", "status", "comfyui_response", "output", "timings"}
    assert str(uuid.UUID(answer["id"])) == answer["id"]
    assert answer["message"] == "Processing complete."

    response = answer["comfyui_response"]
    details = response["execution_details"]
    prompt_id = details["prompt_id"]
    assert set(response) == {prompt_id, "execution_details"}
    entry = response[prompt_id]
    assert set(entry) == {"prompt", "outputs", "status", "meta"}
    _number, submitted_as, ran, _extra, ends = entry["prompt"]
    seeds = [node["inputs"]["noise_seed"] for node in ran.values() if node["class_type"] == "RandomNoise"]
    assert submitted_as == prompt_id and all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds)
    assert of_class(ran, "LoadImage")["inputs"]["image"] == f"ltxops/{answer['id']}/1.png"
    (end,) = ends
    assert ran[end]["class_type"] == "SaveVideo" and set(ran) == set(workflow)
    assert list(entry["outputs"]) == list(entry["meta"]) == [end]
    assert (entry["status"]["status_str"], entry["status"]["completed"]) == ("success", True)
    told = {name: data for name, data in entry["status"]["messages"]}
    assert told["execution_start"]["timestamp"] <= told["execution_success"]["timestamp"]
    # Of two nodes that are the same, ComfyUI runs one.
    assert set(details["nodes_executed"]) <= set(workflow) and details["nodes_executed"][-1] == end
    assert (details["completed"], details["error"]) == (True, None)
    assert details["progress_updates"]
    for update in details["progress_updates"]:
        assert set(update) == {"time", "value", "max", "percentage"}
        assert update["percentage"] == pytest.approx(100 * update["value"] / update["max"], abs=0.01)

    (item,) = answer["output"]
    local_path, url = Path(item.pop("local_path")), item.pop("url")
    assert item == {
        "filename": "LTX-2_00001_.mp4",
        "type": "output",
        "subfolder": "video",
        "node_id": end,
        "output_type": "images",
    }
    assert entry["outputs"][end]["images"][0]["filename"] == item["filename"]
    assert local_path == rented.host.folder / "workspace/ComfyUI/output" / answer["id"] / item["filename"]
    assert fetched(url) == local_path.read_bytes()
    with av.open(str(local_path)) as video:
        assert (video.streams.video[0].width, video.streams.video[0].height) == SIZE
    parts = urlsplit(url)
    assert parts.path == f"/bucket/{answer['id']}/{item['filename']}"
    assert parse_qs(parts.query)["X-Amz-Credential"][0].startswith("host-id/")
    assert "/eu-west-1/s3/" in parse_qs(parts.query)["X-Amz-Credential"][0]
    assert set(answer["timings"]) == {"queued", "preprocess", "generation", "postprocess", "total"}

    event = rented.told("/of-the-host", answer["id"])
    assert event["extra_params"] == extra
    assert {name: event[name] for name in ("id", "status", "message", "output", "timings")} == {
        name: rented.ask(f"/result/{answer['id']}")[2][name]
        for name in ("id", "status", "message", "output", "timings")
    }
    assert not list((rented.host.folder / "workspace/ComfyUI/input/ltxops").iterdir()), "inputs go with a job"


def test_storage_and_webhook_can_be_overridden_by_a_request(rented: Rented) -> None:
    s3 = {
        "access_key_id": "request-id",
        "secret_access_key": "request-secret",
        "endpoint_url": rented.storage.url,
        "bucket_name": "of-the-request",
        "region": "us-west-2",
    }
    hook = {"url": f"{rented.outside.url}/of-the-request", "extra_params": {"user_id": "12345"}}
    status, answer = rented.generate(two_stages(), request_id="overridden", s3=s3, webhook=hook)
    assert (status, answer["status"], answer["id"]) == (200, "completed", "overridden")
    (item,) = answer["output"]
    parts = urlsplit(item["url"])
    assert parts.path == f"/of-the-request/overridden/{item['filename']}"
    credential = parse_qs(parts.query)["X-Amz-Credential"][0]
    assert credential.startswith("request-id/") and "/us-west-2/s3/" in credential
    assert fetched(item["url"]) == Path(item["local_path"]).read_bytes()
    assert b"overridden" not in rented.storage.ask("GET", "/bucket")
    event = rented.told("/of-the-request", "overridden")
    assert (event["status"], event["output"], event["extra_params"]) == (
        "completed", answer["output"], {"user_id": "12345"},
    )  # fmt: skip
    told = [
        json.loads(body)["id"] for _, where, _, body in rented.outside.requests if where == "/of-the-host"
    ]
    assert "overridden" not in told, "instead of the host's webhook, not besides"


def test_a_failure_has_its_status_its_message_and_its_webhook(rented: Rented) -> None:
    gone = two_stages("http://127.0.0.1:9/gone.png")
    status, answer = rented.generate(gone, request_id="no-picture")
    assert (status, answer["id"], answer["status"], answer["output"]) == (422, "no-picture", "failed", [])
    assert "cannot be fetched" in answer["message"]
    assert rented.told("/of-the-host", "no-picture")["status"] == "failed"
    wrong = two_stages()
    of_class(wrong, "CheckpointLoaderSimple")["inputs"]["ckpt_name"] = "absent.safetensors"
    status, answer = rented.generate(wrong, request_id="no-weights")
    assert (status, answer["id"], answer["status"]) == (400, "no-weights", "failed")
    assert "absent.safetensors" in answer["message"] and answer["node_errors"]


def test_a_request_id_tracks_a_request_and_each_random_integer_is_drawn(rented: Rented) -> None:
    workflow = two_stages()
    seeds = {}
    for name in ("tracked-1", "tracked-2"):
        _, answer = rented.generate(workflow, request_id=name)
        assert rented.ask(f"/result/{name}")[::2] == (200, answer)
        assert rented.generate(workflow, request_id=name) == (200, answer), "the same request is one job"
        details = answer["comfyui_response"]["execution_details"]
        ran = answer["comfyui_response"][details["prompt_id"]]["prompt"][2]
        seeds[name] = [node["inputs"].get("noise_seed") for node in ran.values()]
    assert seeds["tracked-1"] != seeds["tracked-2"]


def test_a_job_can_be_sent_asked_for_watched_and_cancelled(rented: Rented) -> None:
    with ThreadPoolExecutor(1) as client:
        running = client.submit(rented.generate, LONG, request_id="long")
        wait_for(lambda: rented.ask("/queue-info")[2]["running"] == 1)
        wanted = {"input": {"request_id": "sent", "workflow_json": two_stages()}}
        status, _, answer = rented.ask("/generate", wanted)
        assert (status, answer["id"], answer["status"]) == (202, "sent", "queued")
        info = rented.ask("/queue-info")[2]
        assert (info["queued"], info["running"]) == (1, 1) and info["backends"][0]["state"] == "up"
        assert rented.ask("/result/sent")[2]["status"] == "queued"
        # The answer waits for the end only for seconds.
        wait_for(lambda: rented.ask("/cancel/long", {})[2]["status"] == "cancelled")
        status, _, answer = rented.ask("/cancel/long", {})
        assert (status, answer["status"]) == (200, "cancelled")
        assert running.result() == (422, answer)
    seen = set()

    def ended() -> Any:
        answer = rented.ask("/result/sent")[2]
        seen.add(answer["status"])
        return answer if answer["status"] == "completed" else None

    assert wait_for(ended, 180)["output"][0]["url"]
    assert seen <= STATES
    text = rented.ask("/generate/stream", wanted)[2]
    assert text.startswith("event: status\n") and "\nevent: result\ndata: {" in text
    assert rented.ask("/result/unknown")[0] == 404


def test_the_host_tells_how_it_is_and_what_it_serves(rented: Rented) -> None:
    status, _, health = rented.ask("/health")
    assert (status, health["status"], health["disk"]["error"]) == (200, "ok", None)
    assert [backend["state"] for backend in health["backends"]] == ["up"]
    status, kind, page = rented.ask("/docs")
    assert (status, kind) == (200, "text/html") and "SwaggerUIBundle" in page
    served = rented.ask("/openapi.json")[2]["paths"]
    assert {"/generate/sync", "/generate", "/result/{request_id}", "/cancel/{request_id}"} <= set(served)
    status, kind, metrics = rented.ask("/metrics")
    assert (status, kind) == (200, "text/plain") and 'ltxops_jobs_total{status="completed"}' in metrics


def test_a_wrapper_that_is_killed_answers_what_it_accepted(rented: Rented) -> None:  # R58
    comfyui = f"http://127.0.0.1:{rented.host.ports['comfyui_port']}"
    occupy(comfyui)
    wanted = {"request_id": "survives", "workflow_json": graph(prefix="video/survives")}
    assert rented.ask("/generate", {"input": wanted})[0] == 202
    waiting_prompt(comfyui)
    os.kill(rented.host.pids()["wrapper"], signal.SIGKILL)
    call(f"{comfyui}/interrupt", {})
    wait_for(lambda: rented.ask("/result/survives")[2].get("status") == "completed", 60)
    (item,) = rented.ask("/result/survives")[2]["output"]
    assert fetched(item["url"]) == Path(item["local_path"]).read_bytes()
    assert rented.told("/of-the-host", "survives")["status"] == "completed"


def test_a_comfyui_that_is_killed_fails_its_job_and_the_next_one_works(rented: Rented) -> None:  # R36
    assert rented.ask("/generate", {"input": {"request_id": "lost", "workflow_json": LONG}})[0] == 202
    wait_for(lambda: rented.ask("/result/lost")[2]["status"] == "generating")
    os.kill(rented.host.pids()["comfyui"], signal.SIGKILL)
    wait_for(lambda: rented.ask("/result/lost")[2]["status"] == "failed", 60)
    assert "no longer knows" in rented.ask("/result/lost")[2]["message"]
    wait_for(lambda: rented.ask("/health")[0] == 200, 60)
    status, answer = rented.generate(two_stages())
    assert (status, answer["status"]) == (200, "completed")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *((path, {}) for path in ("/generate/sync", "/generate", "/generate/stream", "/cancel/x")),
        *((path, None) for path in ("/result/x", "/queue-info", "/health", "/docs", "/metrics")),
    ],
)
def test_nothing_of_it_is_open_without_the_token(rented: Rented, path: str, body: object) -> None:  # R1
    assert rented.ask(path, body, token=False) == (401, "application/json", {"error": "Unauthorized"})
