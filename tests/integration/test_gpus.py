"""A host with two GPUs: a ComfyUI on each, one wrapper in front of both, and back to one."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import av
import pytest
from tests.integration.demo_host import REPO, Demo, changed_tasks, new_host
from tests.support import free_ports

FAB = REPO / ".venv/bin/fab"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    host = new_host(tmp_path_factory.mktemp("gpus"))
    host.ports["comfyui_port"] = free_ports(2)[0]
    host.settings = {"comfyui_gpus": 2, "smoke_cases": ["check"], "cleanup_ttl_enabled": False}
    first = host.run()
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    yield host
    assert host.script("--down").returncode == 0
    assert host.processes() == set()


def generate(demo: Demo, request_id: str, frames: int) -> tuple[int, dict[str, Any]]:
    """Have the wrapper make a video of so many frames; three thousand take seconds."""
    graph = json.loads((REPO / "workflows/check.json").read_text())
    graph["10"]["inputs"]["batch_size"] = frames
    body = json.dumps({"input": {"request_id": request_id, "workflow_json": graph}})
    code, text = demo.authorized("/generate/sync", "-H", "Content-Type: application/json", "-d", body)
    answer: dict[str, Any] = json.loads(text)
    return code, answer


def backends(demo: Demo) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(demo.authorized("/health")[1])["backends"]
    return found


def until(demo: Demo, states: list[str]) -> None:
    deadline = time.monotonic() + 20
    while (seen := [one["state"] for one in backends(demo)]) != states:
        assert time.monotonic() < deadline, seen
        time.sleep(0.1)


def frames_in(path: str) -> int:
    with av.open(path) as container:
        return sum(1 for _ in container.decode(video=0))


def url_of(demo: Demo, gpu: int) -> str:
    return f"http://127.0.0.1:{demo.ports['comfyui_port'] + gpu}"


def runs_one(demo: Demo, gpu: int) -> bool:
    """Ask the ComfyUI itself: the wrapper counts a job before ComfyUI has it."""
    with urlopen(url_of(demo, gpu) + "/queue", timeout=10) as answer:
        return bool(json.load(answer)["queue_running"])


def fab(demo: Demo, *words: str) -> str:
    environment = {**os.environ, "LTXOPS_DEMO_DIR": str(demo.folder)}
    command = [str(FAB), *words, "--inventory", "inventory/demo/hosts.yml"]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_each_gpu_has_a_program_that_sees_it_alone(demo: Demo) -> None:
    pids = demo.pids()
    assert list(pids)[:3] == ["comfyui", "comfyui-1", "wrapper"]
    for gpu, name in enumerate(("comfyui", "comfyui-1")):
        environment = Path(f"/proc/{pids[name]}/environ").read_bytes().split(b"\0")
        assert f"CUDA_VISIBLE_DEVICES={gpu}".encode() in environment
        assert (demo.folder / f"workspace/logs/{name}.log").stat().st_size > 0
    assert [(one["url"], one["state"]) for one in backends(demo)] == [
        (url_of(demo, 0), "up"),
        (url_of(demo, 1), "up"),
    ]


def test_every_gpu_was_proven(demo: Demo) -> None:
    for name in ("proof", "proof-comfyui-1"):
        report = json.loads((demo.folder / f"state/smoke/{name}/report.json").read_text())
        assert report["ok"] is True, name


def test_two_jobs_at_once_run_on_two_gpus_and_keep_their_own_files(demo: Demo) -> None:
    frames = {"gpus-a": 300, "gpus-b": 301}
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda one: generate(demo, *one), frames.items()))
    assert [code for code, _ in answers] == [200, 200]
    first, second = (answer["output"][0] for _, answer in answers)
    # Each has counted for itself, and come to the same name.
    assert first["filename"] == second["filename"]
    assert sorted([first["subfolder"], second["subfolder"]]) == ["gpu.1/video", "video"]
    for (request_id, count), item in zip(frames.items(), (first, second), strict=True):
        local = Path(item["local_path"])
        assert local == demo.folder / "workspace/ComfyUI/output" / request_id / item["filename"]
        assert frames_in(str(local)) == count
        assert local.samefile(local.parents[1] / item["subfolder"] / item["filename"])
        query = urlencode({key: item[key] for key in ("filename", "subfolder", "type")})
        viewed = demo.folder / "run/viewed.mp4"
        assert demo.authorized(f"/view?{query}", "-o", str(viewed))[0] == 200
        assert viewed.read_bytes() == local.read_bytes()


def test_a_second_run_changes_and_restarts_nothing(demo: Demo) -> None:  # R33 R47
    before = demo.pids()
    second = demo.run()
    assert (second.returncode, changed_tasks(second.stdout)) == (0, 0), second.stdout[-3000:]
    assert demo.pids() == before


def test_fab_knows_every_program(demo: Demo) -> None:
    assert "comfyui-1" in fab(demo, "status")
    assert str(demo.ports["comfyui_port"] + 1) in fab(demo, "logs", "--program", "comfyui-1", "--no-follow")
    before = demo.pids()
    assert "comfyui-1 is running and well" in fab(demo, "restart", "--program", "comfyui-1")
    after = demo.pids()
    assert {name for name in before if before[name] != after[name]} == {"comfyui-1"}
    until(demo, ["up", "up"])


def test_a_gpu_that_is_lost_leaves_the_other_at_work(demo: Demo) -> None:
    doomed = demo.pids()["comfyui-1"]
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(generate, demo, request_id, 3000) for request_id in ("gpus-c", "gpus-d")]
        deadline = time.monotonic() + 20
        while not all(runs_one(demo, gpu) for gpu in (0, 1)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(doomed, signal.SIGKILL)
        codes = sorted(job.result()[0] for job in jobs)
    assert codes == [200, 502]
    assert demo.services("wait", "--timeout", "60").returncode == 0


@pytest.mark.parametrize(("stopped", "left"), [("comfyui", "gpu.1/video"), ("comfyui-1", "video")])
def test_while_one_is_down_the_other_takes_every_job(demo: Demo, stopped: str, left: str) -> None:
    demo.supervisorctl("stop", stopped)
    until(demo, ["down", "up"] if stopped == "comfyui" else ["up", "down"])
    code, answer = generate(demo, f"without-{stopped}", 25)
    assert (code, answer["output"][0]["subfolder"]) == (200, left)
    demo.supervisorctl("start", stopped)
    assert demo.services("wait", "--timeout", "60").returncode == 0
    until(demo, ["up", "up"])


def test_back_to_one_removes_the_second_and_leaves_the_first_alone(demo: Demo) -> None:
    before = demo.pids()
    demo.settings["comfyui_gpus"] = 1
    one = demo.run()
    assert one.returncode == 0, one.stdout[-3000:]
    after = demo.pids()
    assert "comfyui-1" not in after
    assert (after["comfyui"], after["gateway"]) == (before["comfyui"], before["gateway"])
    assert "comfyui-1" not in demo.supervisorctl("status")
    assert not Path(f"/proc/{before['comfyui-1']}").exists()
    assert [path.name for path in demo.folder.rglob("comfyui-1.*") if path.suffix != ".log"] == []
    assert [one["url"] for one in backends(demo)] == [url_of(demo, 0)]
    assert json.loads(demo.authorized("/result/gpus-a")[1])["status"] == "completed"
    again = demo.run()
    assert (again.returncode, changed_tasks(again.stdout)) == (0, 0), again.stdout[-3000:]
