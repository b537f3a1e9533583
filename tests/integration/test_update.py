"""A new version of ComfyUI in the place of the one that runs: drained, proven, or back to the one before.

Engine git with local repositories, as in test_git_engine.py; at the end the host is torn down, in scope user.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.demo_host import Demo, changed_tasks, last_line, new_host
from tests.integration.test_git_engine import GOOD, commit, git
from tests.integration.wrapper_host import call, graph, wait_for

#: Passes the import gate, which asks for no GPU, and does not start with one.
BROKEN = f"""
    import sys
    if "--cpu" not in sys.argv:
        sys.exit("this version does not run on this GPU")
{GOOD}"""
#: Runs until it is interrupted, however long everything before the drain takes: one long video after another.
ENDLESS = {
    f"{number}{node}": {
        **content,
        "inputs": {
            name: [f"{number}{value[0]}", *value[1:]] if isinstance(value, list) else value
            for name, value in content["inputs"].items()
        },
    }
    for number in range(50)
    for node, content in graph(4000, f"video/endless-{number}", 2048).items()
}
KEPT = ("output/mine/clip.mp4", "input/mine.png", "user/default/comfy.settings.json")


class Host(Demo):
    """A demo host with engine git, and what is asked of it."""

    def update(self, version: str) -> "subprocess.CompletedProcess[str]":
        return self.play("playbooks/update.yml", comfyui_version=version)

    def play(self, playbook: str, **settings: Any) -> "subprocess.CompletedProcess[str]":
        process = self.start(playbook, **settings)
        output, _ = process.communicate(timeout=900)
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    @property
    def data(self) -> Path:
        return self.folder / "workspace/ComfyUI"

    def version(self, link: str = "current") -> str:
        """The tag that a link among the versions leads to."""
        found = self.folder / "workspace/ComfyUI-versions" / link
        return found.readlink().name.split("-")[0] if found.is_symlink() else ""

    def versions(self) -> set[str]:
        folders = (self.folder / "workspace/ComfyUI-versions").iterdir()
        return {it.name.split("-")[0] for it in folders if not it.is_symlink()}

    def drain(self) -> Path:
        return self.folder / "state/wrapper/drain"

    def ask(self, path: str, body: object = None) -> tuple[int, dict[str, str], Any]:
        return call(f"http://127.0.0.1:{self.ports['wrapper_port']}{path}", body)

    def submit(self, workflow: object, request_id: str) -> tuple[int, dict[str, str], Any]:
        return self.ask("/generate", {"input": {"request_id": request_id, "workflow_json": workflow}})

    def status(self, request_id: str) -> str:
        return str(self.ask(f"/result/{request_id}")[2]["status"])


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    sources = tmp_path_factory.mktemp("sources")
    package = sources / "probe"
    package.mkdir()
    (package / "wheel_of_comfyui_requirements_probe.py").write_text("")
    (package / "pyproject.toml").write_text(
        '[project]\nname = "comfyui-requirements-probe"\nversion = "1"\n'
        '[tool.setuptools]\npy-modules = ["wheel_of_comfyui_requirements_probe"]\n'
    )
    for tag, program in (("v1", GOOD), ("v2", GOOD), ("v3", BROKEN), ("v4", GOOD)):
        files = {"main.py": program, "requirements.txt": f"{package}\n", "name": tag}
        commit(sources / "comfyui", files)
        git(sources / "comfyui", "tag", tag)
    made = new_host(tmp_path_factory.mktemp("update"))
    demo = Host(made.folder, made.ports, made.hub_port)
    demo.settings = {
        "comfyui_engine": "git",
        "comfyui_repo": str(sources / "comfyui"),
        "comfyui_version": "v1",
        "comfyui_nodes": [],
        "preflight_disk_reserve_gib": 1,
        "smoke_cases": ["check"],
        # The demo removes outputs after ten minutes.
        "cleanup_ttl_enabled": False,
    }
    first = demo.run()
    assert first.returncode == 0, first.stdout[-3000:]
    for name in KEPT:
        (demo.data / name).parent.mkdir(parents=True, exist_ok=True)
        (demo.data / name).write_text(name)
    yield demo
    assert demo.script("--down").returncode == 0
    assert demo.processes() == set()


def test_an_update_waits_for_the_running_job_and_holds_the_others(host: Host) -> None:
    before = host.pids()
    assert host.submit(ENDLESS, "running")[0] == 202
    assert host.submit(graph(2), "waiting")[0] == 202
    wait_for(lambda: host.status("running") == "generating")
    update = host.start("playbooks/update.yml", comfyui_version="v2")
    wait_for(lambda: host.drain().exists() or update.poll() is not None, 300)
    status, headers, body = host.submit(graph(3), "refused")
    assert (status, body["error"]["type"], int(headers["retry-after"]) > 0) == (503, "draining", True)
    assert (host.pids(), host.version()) == (before, "v1")
    call(f"http://127.0.0.1:{host.ports['comfyui_port']}/interrupt", {})
    output, _ = update.communicate(timeout=600)
    assert update.returncode == 0, output[-3000:]
    assert host.status("running") == "failed", "because this test has interrupted it"
    wait_for(lambda: host.status("waiting") == "completed", 60)
    after = host.pids()
    assert {name for name in before if before[name] != after[name]} == {"comfyui"}
    assert (host.version(), host.version("previous")) == ("v2", "v1")
    assert [(host.data / name).read_text() for name in KEPT] == list(KEPT)
    host.settings["comfyui_version"] = "v2"
    again = host.run()
    assert (again.returncode, changed_tasks(again.stdout), host.pids()) == (0, 0, after)  # R47


def test_a_version_that_does_not_run_is_gone_back_from(host: Host) -> None:
    failed = host.update("v3")
    assert failed.returncode != 0
    closing = failed.stdout.rsplit("PLAY RECAP", 1)[1]
    assert "was not kept" in closing
    assert "this version does not run on this GPU" in closing
    assert (host.version(), host.drain().exists()) == ("v2", False)
    assert host.services("status").returncode == 0
    assert host.submit(graph(4), "afterwards")[0] == 202
    wait_for(lambda: host.status("afterwards") == "completed", 60)
    again = host.run()
    assert (again.returncode, changed_tasks(again.stdout)) == (0, 0)


def test_an_update_that_was_killed_is_finished_by_the_next(host: Host) -> None:  # R48
    update = host.start("playbooks/update.yml", comfyui_version="v4")
    wait_for(lambda: host.version() == "v4" or update.poll() is not None, 300)
    os.killpg(update.pid, signal.SIGKILL)
    update.communicate()
    assert (host.version(), host.version("previous"), host.drain().exists()) == ("v4", "v2", True)
    again = host.update("v4")
    assert again.returncode == 0, again.stdout[-3000:]
    assert (host.version(), host.versions(), host.drain().exists()) == ("v4", {"v2", "v4"}, False)
    host.settings["comfyui_version"] = "v4"
    after = host.pids()
    third = host.run()
    assert (third.returncode, changed_tasks(third.stdout), host.pids()) == (0, 0, after)


def test_a_host_with_other_settings_is_not_torn_down(host: Host) -> None:
    refused = host.play("playbooks/teardown.yml", ltxops_log_dir="/var/log")
    assert refused.returncode != 0
    assert "give the settings of then. [ltxops exit 2]" in last_line(refused.stdout)
    assert host.services("status").returncode == 0


def test_teardown_leaves_the_weights_and_what_users_made(host: Host) -> None:
    weights = {path for path in (host.data / "models").rglob("*.safetensors")}
    assert weights
    torn = host.play("playbooks/teardown.yml")
    assert torn.returncode == 0, torn.stdout[-3000:]
    left = {path for path in host.folder.rglob("*") if path.is_file() and "hub" not in path.parts}
    others = {path for path in left if host.data / "models" not in path.parents}
    assert weights < left
    assert {host.data / name for name in KEPT} <= others
    assert {path.relative_to(host.data).parts[0] for path in others} == {"output", "input", "user"}
    assert str(host.data / "models") in json.dumps(torn.stdout)
    again = host.play("playbooks/teardown.yml")
    assert again.returncode != 0
    assert "did not provision this host" in last_line(again.stdout)
