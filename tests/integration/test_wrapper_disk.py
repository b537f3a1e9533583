"""The wrapper on a disk that fills: nothing is begun that could not be saved, and all else is answered."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from tests.integration.mounts import mounted
from tests.integration.wrapper_host import LONG, Host, call, graph, wait_for

MIB = 2**20
FLOOR = 32 * MIB


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A wrapper and a ComfyUI whose folders are on a file system of 96 MiB."""
    with mounted(tmp_path, "tmpfs", "96m") as disk:
        host = Host(disk)
        host.start_both("--min-free", "32MiB")
        yield host
        host.close()


def free(host: Host) -> int:
    usage = os.statvfs(host.output)
    return usage.f_bavail * usage.f_frsize


def fill(host: Host) -> Path:
    """Leave half of what the wrapper wants to be free; returns the file to be removed."""
    filler = host.folder / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free(host) - FLOOR // 2)
    return filler


def prompts(host: Host) -> int:
    """Return how many graphs ComfyUI has run."""
    return len(call(f"{host.engine_url}/history")[2])


def test_below_the_floor_nothing_new_begins_and_what_is_there_is_answered(host: Host) -> None:  # R44
    status, _, health = call(f"{host.url}/health")
    assert (status, health["status"], health["disk"]["error"]) == (200, "ok", None)
    assert health["disk"]["min_free_bytes"] == FLOOR < health["disk"]["free_bytes"] <= free(host)
    wanted = graph()
    status, _, envelope = host.generate(wanted, request_id="before")
    assert status == 200
    ran = prompts(host)

    filler = fill(host)
    status, _, health = call(f"{host.url}/health")
    assert (status, health["status"]) == (200, "degraded"), "it answers: only new jobs have no room"
    assert health["disk"]["free_bytes"] < FLOOR and health["backends"][0]["state"] == "up"
    for path in ("generate/sync", "generate", "generate/stream"):
        body = {"input": {"request_id": "full", "workflow_json": graph()}}
        status, _, refused = call(f"{host.url}/{path}", body)
        assert (status, refused["error"]["type"], refused["id"]) == (507, "disk_full", "full")
        assert refused["message"] == health["disk"]["error"]
        assert str(host.output) in refused["message"] and "needs 32.0 MiB" in refused["message"]
    assert host.result("full")[0] == 404, "no job is left behind"
    assert prompts(host) == ran and not (host.output / "full").exists()
    assert host.result("before") == (200, envelope)
    assert host.generate(wanted, request_id="before")[::2] == (200, envelope), "answered from what is kept"

    filler.unlink()
    assert call(f"{host.url}/health")[2]["status"] == "ok"
    assert host.generate(graph(), request_id="full")[0] == 200


def test_a_job_that_waited_while_the_disk_filled_is_not_begun(  # R44
    host: Host, background: Callable[..., "Future[Any]"]
) -> None:
    running = background(host.generate, LONG, request_id="running")
    prompt_id = host.running_prompt()
    waiting = background(host.generate, graph(), request_id="waiting")
    wait_for(lambda: call(f"{host.url}/queue-info")[2]["queued"] == 1)
    filler = fill(host)
    call(f"{host.engine_url}/interrupt", {"prompt_id": prompt_id})
    assert running.result()[0] == 422
    status, _, envelope = waiting.result()
    assert (status, envelope["status"], envelope["comfyui_response"]) == (507, "failed", {})
    assert "a result could not be saved" in envelope["message"]
    assert host.result("waiting") == (200, envelope)
    assert prompts(host) == 1, "ComfyUI has only heard of the first"
    filler.unlink()
    assert host.generate(graph(), request_id="after")[0] == 200, "its place was given back"
