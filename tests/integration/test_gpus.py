"""A host with two GPUs: a ComfyUI on each, one wrapper in front of both, and back to one."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import av
import pytest
from tests.integration.demo_host import REPO, Demo, changed_tasks, new_host
from tests.integration.wrapper_host import call, occupy, waiting_prompt
from tests.support import free_ports, wait_for

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
    """Have the wrapper make a video of so many frames."""
    graph = json.loads((REPO / "workflows/check.json").read_text())
    graph["10"]["inputs"]["batch_size"] = frames
    body = json.dumps({"input": {"request_id": request_id, "workflow_json": graph}})
    code, text = demo.authorized("/generate/sync", "-H", "Content-Type: application/json", "-d", body)
    answer: dict[str, Any] = json.loads(text)
    return code, answer


def health(demo: Demo) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(demo.authorized("/health")[1])
    return found


def until(demo: Demo, states: list[str]) -> None:
    def seen() -> list[str]:
        return [one["state"] for one in health(demo)["backends"]]

    wait_for(lambda: seen() == states, told=lambda: str(seen()))


def frames_in(path: str) -> int:
    with av.open(path) as container:
        return sum(1 for _ in container.decode(video=0))


def url_of(demo: Demo, gpu: int) -> str:
    return f"http://127.0.0.1:{demo.ports['comfyui_port'] + gpu}"


def give_one_to_each(
    demo: Demo, pool: ThreadPoolExecutor, frames: dict[str, int]
) -> list[Future[tuple[int, dict[str, Any]]]]:
    """Ask for two videos and return once each ComfyUI has one of them, behind another client's job."""
    for gpu in (0, 1):
        occupy(url_of(demo, gpu))
    jobs = [pool.submit(generate, demo, *one) for one in frames.items()]
    for gpu in (0, 1):
        waiting_prompt(url_of(demo, gpu))
    wait_for(lambda: health(demo)["jobs"] == {"queued": 2, "running": 0})
    return jobs


def interrupt(demo: Demo, gpu: int) -> None:
    """End the other client's job."""
    call(url_of(demo, gpu) + "/interrupt", {})


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
    assert [(one["url"], one["state"]) for one in health(demo)["backends"]] == [
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
        jobs = give_one_to_each(demo, pool, frames)
        for gpu in (0, 1):
            interrupt(demo, gpu)
        answers = [job.result() for job in jobs]
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
        jobs = give_one_to_each(demo, pool, {"gpus-c": 25, "gpus-d": 26})
        os.kill(doomed, signal.SIGKILL)
        interrupt(demo, 0)
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
    assert [one["url"] for one in health(demo)["backends"]] == [url_of(demo, 0)]
    assert json.loads(demo.authorized("/result/gpus-a")[1])["status"] == "completed"
    again = demo.run()
    assert (again.returncode, changed_tasks(again.stdout)) == (0, 0), again.stdout[-3000:]
