"""Jobs of the wrapper over their lives: asked for in three ways, cancelled, killed with their process."""

import json
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from tests.integration.wrapper_host import (
    LONG,
    Host,
    Process,
    call,
    graph,
    occupy,
    wait_for,
    waiting_prompt,
)

IDLE: dict[str, Any] = {"queue_running": [], "queue_pending": []}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Nothing is started yet."""
    host = Host(tmp_path)
    yield host
    host.close()


@pytest.fixture
def started(host: Host) -> Host:
    """One ComfyUI, one wrapper."""
    host.start_both()
    return host


def unseeded(frames: int, prefix: str) -> dict[str, Any]:
    """Return a workflow that is the same each time it is sent."""
    return {node: value for node, value in graph(frames, prefix, 256).items() if node != "4"}


def events_of(url: str, body: object) -> Iterator[tuple[str, Any]]:
    """Give the server-sent events that a request is answered with."""
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in response:
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)


def test_a_job_can_be_asked_for_now_and_its_result_later(started: Host) -> None:
    status, answer = started.submit(graph(), request_id="later")
    assert (status, answer["id"]) == (202, "later") and answer["status"] in ("queued", "generating")
    envelope = started.ended("later")
    assert envelope["status"] == "completed" and Path(envelope["output"][0]["local_path"]).is_file()
    status, answer = started.submit(graph(), request_id="later")
    assert (status, answer["status"]) == (200, "completed"), "the same request is the same job"
    wrong = graph()
    wrong["3"]["inputs"]["codec"] = "no-such-codec"
    status, answer = started.submit(wrong, request_id="wrong")
    assert status == 400 and set(answer["node_errors"]) == {"3"}
    assert started.submit(graph(10), request_id="later")[0] == 409  # R61


def test_a_stream_tells_place_node_step_and_result(
    started: Host, background: Callable[..., "Future[Any]"]
) -> None:
    first = background(started.generate, LONG, request_id="first")
    prompt_id = started.running_prompt()
    body = {"input": {"request_id": "watched", "workflow_json": graph(49, "video/watched")}}
    events = events_of(f"{started.url}/generate/stream", body)
    name, told = next(events)
    assert (name, told) == ("status", {"id": "watched", "status": "queued", "position": 1})
    call(f"{started.engine_url}/interrupt", {"prompt_id": prompt_id})
    heard = list(events)
    assert first.result()[0] == 422
    statuses = [told["status"] for name, told in heard if name == "status"]
    assert statuses[-2:] == ["generating", "processing"]
    assert [told["node"] for name, told in heard if name == "node"] == ["1", "2", "3"]
    assert all(told["percentage"] <= 100 for name, told in heard if name == "progress")
    name, envelope = heard[-1]
    assert name == "result" and envelope == started.result("watched")[1]
    assert envelope["status"] == "completed"
    again = list(events_of(f"{started.url}/generate/stream", body))
    assert again[-1] == ("result", envelope), "one that has ended has its result at once"
    body["input"]["workflow_json"] = {}
    assert call(f"{started.url}/generate/stream", body)[0] == 409


def test_who_leaves_a_stream_leaves_the_job_alone(started: Host) -> None:
    occupy(started.engine_url)
    body = {"input": {"request_id": "left", "workflow_json": graph(prefix="video/left")}}
    next(events_of(f"{started.url}/generate/stream", body))
    assert started.result("left")[1]["status"] == "queued", "it was left in time"
    call(f"{started.engine_url}/interrupt", {})
    assert started.ended("left")["status"] == "completed"


def test_a_waiting_job_and_a_running_one_can_be_cancelled(
    started: Host, background: Callable[..., "Future[Any]"]
) -> None:
    running = background(started.generate, LONG, request_id="running")
    wait_for(lambda: started.result("running")[1]["status"] == "generating")
    waiting = background(started.generate, graph(), request_id="waiting")
    wait_for(lambda: started.result("waiting")[0] == 200)
    envelope = started.cancel("waiting")
    assert waiting.result()[::2] == (422, envelope)
    assert started.result("running")[1]["status"] == "generating", "the one that runs goes on"

    envelope = started.cancel("running")
    assert running.result()[::2] == (422, envelope) and started.result("running") == (200, envelope)
    wait_for(lambda: call(f"{started.engine_url}/queue")[2] == IDLE, 180)
    assert call(f"{started.url}/cancel/running", {})[::2] == (200, envelope), "once more is the same"
    assert call(f"{started.url}/cancel/unknown", {})[0] == 404
    assert call(f"{started.url}/cancel/a.b", {})[0] == 400
    assert started.generate(graph())[0] == 200


def test_cancelling_touches_nobody_elses_job(started: Host) -> None:
    """Another client of ComfyUI runs a job; ours waits behind it there, and is cancelled."""
    theirs = occupy(started.engine_url)
    assert started.submit(graph(), request_id="ours")[0] == 202
    waiting_prompt(started.engine_url)
    started.cancel("ours")
    wait_for(lambda: call(f"{started.engine_url}/queue")[2]["queue_pending"] == [])
    assert started.running_prompt() == theirs
    call(f"{started.engine_url}/interrupt", {})


def kill(wrapper: Process) -> None:
    assert wrapper.end(signal.SIGKILL) == -signal.SIGKILL


def test_after_a_kill_every_accepted_job_is_completed(host: Host) -> None:  # R58
    host.start_engine()
    first = host.start_wrapper()
    occupy(host.engine_url)
    for name in ("in-comfyui", "waiting-1", "waiting-2"):
        assert host.submit(unseeded(300, f"video/{name}"), request_id=name)[0] == 202
    waiting_prompt(host.engine_url)
    kill(first)
    host.start_wrapper()
    for name in ("in-comfyui", "waiting-1", "waiting-2"):
        assert host.result(name)[1]["status"] == "queued"
    call(f"{host.engine_url}/interrupt", {})
    for name in ("in-comfyui", "waiting-1", "waiting-2"):
        envelope = host.ended(name)
        assert envelope["status"] == "completed", envelope["message"]
        assert len(list(host.output.glob(f"video/{name}_*"))) == 1, "it ran once"
        assert Path(envelope["output"][0]["local_path"]).is_file()
    assert host.ended("in-comfyui")["timings"]["generation"] > 0


def test_what_comfyui_finished_meanwhile_is_taken_up(host: Host) -> None:  # R58
    host.start_engine()
    first = host.start_wrapper()
    occupy(host.engine_url)
    assert host.submit(unseeded(9, "video/meanwhile"), request_id="meanwhile")[0] == 202
    prompt_id = waiting_prompt(host.engine_url)
    kill(first)
    call(f"{host.engine_url}/interrupt", {})
    wait_for(lambda: call(f"{host.engine_url}/queue")[2] == IDLE)
    host.start_wrapper()
    envelope = host.ended("meanwhile")
    assert envelope["status"] == "completed"
    assert envelope["comfyui_response"]["execution_details"]["prompt_id"] == prompt_id, "it ran once"
    assert len(list(host.output.glob("video/meanwhile_*"))) == 1


@pytest.mark.parametrize(("policy", "status"), [("fail", "failed"), ("retry", "completed")])
def test_what_died_with_comfyui_is_answered(host: Host, policy: str, status: str) -> None:  # R58
    engine = host.start_engine()
    first = host.start_wrapper("--on-backend-loss", policy)
    occupy(host.engine_url)
    assert host.submit(unseeded(9, "video/gone"), request_id="gone")[0] == 202
    waiting_prompt(host.engine_url)
    assert host.submit(graph(9, "video/next"), request_id="next")[0] == 202
    kill(first)
    engine.end(signal.SIGKILL)
    host.start_wrapper("--on-backend-loss", policy)
    assert host.result("gone")[1]["status"] == "queued", "it waits for its ComfyUI"
    host.start_engine()
    envelope = host.ended("gone")
    assert envelope["status"] == status
    if status == "failed":
        assert "no longer knows" in envelope["message"]
    assert host.ended("next")["status"] == "completed"


@pytest.mark.parametrize("delay_ms", [0, 2, 5, 10, 20, 40, 80])
def test_a_kill_at_any_moment_loses_no_job_that_was_accepted(host: Host, delay_ms: int) -> None:  # R58
    host.start_engine()
    wrapper = host.start_wrapper()
    accepted: list[str] = []

    def submit() -> None:
        for number in range(200):
            name = f"job-{number}"
            try:
                status, _ = host.submit(graph(2, f"video/{name}"), request_id=name)
            except (OSError, ValueError, HTTPException):  # an answer can break off anywhere
                return
            if status == 202:
                accepted.append(name)

    client = threading.Thread(target=submit)
    client.start()
    wait_for(lambda: len(accepted) >= 3)
    time.sleep(delay_ms / 1000)
    kill(wrapper)
    client.join(60)
    host.start_wrapper()
    for name in accepted:
        assert host.ended(name, 60)["status"] == "completed"
        assert len(list(host.output.glob(f"video/{name}_*"))) == 1, "it ran once"


def test_a_stop_leaves_the_jobs_to_the_next_start(
    host: Host, background: Callable[..., "Future[Any]"]
) -> None:
    host.start_engine()
    wrapper = host.start_wrapper("--json")
    occupy(host.engine_url)
    body = unseeded(9, "video/kept")
    answer = background(host.generate, body, request_id="kept")
    prompt_id = waiting_prompt(host.engine_url)
    begun = time.monotonic()
    assert wrapper.end(signal.SIGTERM) == 0
    assert time.monotonic() - begun < 30
    status, headers, refused = answer.result()
    assert status == 503 and int(headers["retry-after"]) > 0 and "GET /result/kept" in refused["message"]
    assert json.loads(wrapper.stdout.read_text().splitlines()[-1]) == {"ok": True}
    assert "Traceback" not in wrapper.text()
    call(f"{host.engine_url}/interrupt", {})
    host.start_wrapper()
    status, _, envelope = host.generate(body, request_id="kept")
    assert (status, envelope["status"]) == (200, "completed")
    assert envelope["comfyui_response"]["execution_details"]["prompt_id"] == prompt_id, "ComfyUI went on"
    assert len(list(host.output.glob("video/kept_*"))) == 1


def test_a_lost_backend_fails_its_job_and_the_other_goes_on(
    host: Host, background: Callable[..., "Future[Any]"]
) -> None:
    second = host.add_backend()
    host.start_engine()
    engine = host.start_engine(second)
    wrapper = host.start_wrapper("--on-backend-loss", "retry")
    wait_for(lambda: [one["state"] for one in call(f"{host.url}/health")[2]["backends"]] == ["up", "up"])
    for url in host.backends:
        occupy(url)
    jobs = [background(host.generate, unseeded(9, f"video/two-{n}"), request_id=f"two-{n}") for n in (0, 1)]
    for url in host.backends:
        waiting_prompt(url)
    wait_for(lambda: call(f"{host.url}/health")[2]["jobs"] == {"queued": 2, "running": 0})
    waiting = background(host.generate, graph(), request_id="third")
    wait_for(lambda: host.result("third")[0] == 200)
    engine.end(signal.SIGKILL)
    call(f"{host.engine_url}/interrupt", {})
    assert waiting.result()[0] == 200, "the other one goes on while this one is down"
    host.start_engine(second)
    for answer in [*jobs, waiting]:
        status, _, envelope = answer.result()
        assert (status, envelope["status"]) == (200, "completed")
    assert wrapper.text().count("runs once more") == 1


def test_jobs_wait_here_and_go_to_the_backend_that_is_free_first(
    host: Host, background: Callable[..., "Future[Any]"]
) -> None:
    second = host.add_backend()
    host.start_engine()
    host.start_engine(second)
    host.start_wrapper()
    wait_for(lambda: [one["state"] for one in call(f"{host.url}/health")[2]["backends"]] == ["up", "up"])
    names = ("long-0", "long-1")
    long = [background(host.generate, graph(4000, f"video/{n}", 2048), request_id=n) for n in names]
    wait_for(lambda: call(f"{host.url}/health")[2]["jobs"] == {"queued": 0, "running": 2})
    others = [background(host.generate, graph(2, f"video/o-{n}"), request_id=f"o-{n}") for n in range(4)]
    wait_for(lambda: call(f"{host.url}/health")[2]["jobs"] == {"queued": 4, "running": 2})
    queues = [call(f"{url}/queue")[2]["queue_pending"] for url in host.backends]
    assert queues == [[], []], "the others wait in the wrapper"
    call(f"{host.engine_url}/interrupt", {})
    assert [answer.result()[0] for answer in others] == [200] * 4, "none waits behind the other long one"

    def statuses() -> list[str]:
        return sorted(host.result(name)[1]["status"] for name in names)

    wait_for(lambda: statuses() == ["failed", "generating"])
    for name in names:
        call(f"{host.url}/cancel/{name}", {})
    wait_for(lambda: statuses() == ["cancelled", "failed"])
    assert [answer.result()[0] for answer in long] == [422, 422]


def test_a_job_that_waits_too_long_is_ended_like_one_that_runs_too_long(host: Host) -> None:
    host.start_engine()
    host.start_wrapper("--job-timeout", 1.5)
    for name in ("running", "waiting"):
        assert host.submit(LONG, request_id=name)[0] == 202
    for name in ("running", "waiting"):
        assert "within 1.5 s" in host.ended(name)["message"]
    wait_for(lambda: call(f"{host.engine_url}/queue")[2] == IDLE, 180)


def test_keys_of_a_request_are_gone_with_its_job(host: Host) -> None:
    """The request is kept as long as it is needed, and then no byte of it is left in any file."""
    host.start_engine()
    wrapper = host.start_wrapper()
    secret = graph(9, "video/secret")
    secret["9"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "hunter2-hunter2"}}
    assert host.generate(secret, request_id="with-secret")[0] == 200
    database = sqlite3.connect(f"file:{host.state}/jobs.sqlite3?mode=ro", uri=True)
    assert database.execute("SELECT request FROM jobs").fetchone() == (None,)
    database.close()
    assert wrapper.end() == 0
    assert all((path.stat().st_mode & 0o077) == 0 for path in host.state.iterdir())


def test_two_hundred_clients_at_once_are_all_answered(host: Host) -> None:  # R59
    host.start_engine()
    wrapper = host.start_wrapper("--max-waiting", 20)
    wait_for(lambda: call(f"{host.url}/health")[0] == 200)
    host.generate(graph(2))
    rss = memory_kib(wrapper)
    with ThreadPoolExecutor(200) as pool:
        answers = list(
            pool.map(lambda n: host.generate(graph(2, f"video/c-{n}"), request_id=f"c-{n}"), range(200))
        )
    statuses = {status for status, _, _ in answers}
    assert statuses == {200, 503}
    for status, headers, body in answers:
        assert body["status"] == ("completed" if status == 200 else "failed")
        assert status == 200 or int(headers["retry-after"]) > 0
    assert sum(status == 200 for status, _, _ in answers) >= 21
    assert memory_kib(wrapper) - rss < 64 * 1024
    metrics = text_of(f"{host.url}/metrics")
    done = sum(status == 200 for status, _, _ in answers) + 1
    assert f'ltxops_jobs_total{{status="completed"}} {done}.0' in metrics
    assert f'ltxops_requests_refused_total{{status="503"}} {200 - done + 1}.0' in metrics
    assert f'ltxops_backend_up{{backend="{host.engine_url}"}} 1.0' in metrics
    assert 'ltxops_jobs_unfinished{state="queued"} 0.0' in metrics


def memory_kib(process: Process) -> int:
    """Return how much memory a process has."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def text_of(url: str) -> str:
    """Return the text under a URL."""
    with urlopen(url, timeout=30) as response:
        return str(response.read().decode())


def test_half_sent_requests_do_not_hold_up_others(started: Host) -> None:
    head = b"POST /generate/sync HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{"
    clients = [socket.create_connection(("127.0.0.1", started.port)) for _ in range(20)]
    for client in clients:
        client.sendall(head)
    assert started.generate(graph())[0] == 200
    for client in clients:
        client.close()
