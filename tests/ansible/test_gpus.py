"""How many ComfyUI processes a host gets: the GPUs that nvidia-smi finds, or the number it was given."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import free_ports

REPO = Path(__file__).parents[2]
GPU = "NVIDIA H200, 143771, 570.86.10\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, as the path of supervisord's socket has a limit."""
    with tempfile.TemporaryDirectory(prefix="gpus-") as name:
        yield Path(name)


def provision(folder: Path, answer: str, *arguments: str, **settings: Any) -> tuple[int, str]:
    """Run the roles on a host whose nvidia-smi gives `answer`; returns the exit status and the output."""
    smi = folder / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}END\n", encoding="utf-8")
    smi.chmod(0o755)
    given = {
        "ltxops_scope": "user",
        "ltxops_root": str(folder),
        "comfyui_engine": "embedded",
        "preflight_nvidia_smi": str(smi),
        "preflight_min_ram_gib": 1,
        "preflight_disk_reserve_gib": 0,
        "models_manifest": str(REPO / "inventory/demo/models.yaml"),
        "comfyui_port": free_ports(3)[0],
        "wrapper_port": 1,
        "gateway_enabled": False,
        "ansible_python_interpreter": sys.executable,
        **settings,
    }
    playbook = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,"]
    result = subprocess.run(
        [*playbook, "-e", json.dumps(given), "tests/ansible/gpus.yml", *arguments],
        cwd=REPO,
        env={**os.environ, "ANSIBLE_CONFIG": str(REPO / "ansible.cfg")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return result.returncode, result.stdout + result.stderr


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "told.json").read_text(encoding="utf-8"))
    return found


def scripts(folder: Path) -> dict[str, str]:
    found = (folder / "home/bin").glob("comfyui*.sh")
    return {path.stem: path.read_text(encoding="utf-8") for path in found}


def test_auto_is_one_process_for_each_gpu_found(folder: Path) -> None:
    port = free_ports(3)[0]
    code, output = provision(folder, GPU * 3 + "No devices were found\n", comfyui_port=port)
    assert code == 0, output
    placed = scripts(folder)
    assert sorted(placed) == ["comfyui", "comfyui-1", "comfyui-2"]
    for number, name in enumerate(sorted(placed)):
        assert f"CUDA_VISIBLE_DEVICES={number}\n" in placed[name]
        assert f"--port {port + number} " in placed[name].replace("\n", " ")
    assert "--output-directory" not in placed["comfyui"]
    assert f"--output-directory {folder}/workspace/ComfyUI/output/gpu.2 " in placed["comfyui-2"]
    assert f"--temp-directory {folder}/workspace/ComfyUI/user/gpu.2 " in placed["comfyui-2"]
    assert f"--database-url sqlite:///{folder}/workspace/ComfyUI/user/gpu.2/comfyui.db" in placed["comfyui-2"]
    url = "http://127.0.0.1"
    answer = told(folder)
    assert answer["backends"] == f"{url}:{port},{url}:{port + 1}#gpu.1,{url}:{port + 2}#gpu.2"
    assert [program["name"] for program in answer["programs"]][:3] == sorted(placed)
    assert answer["programs"][2] == {
        "name": "comfyui-2",
        "address": f"127.0.0.1:{port + 2}",
        "health": {"url": f"{url}:{port + 2}/system_stats", "status": 200},
        "log": f"{folder}/workspace/logs/comfyui-2.log",
    }
    code, output = provision(folder, GPU * 3, "--tags", "comfyui", comfyui_port=port)
    assert (code, "changed=0" in output) == (0, True), output
    assert len(told(folder)["programs"]) == len(answer["programs"])


def test_without_a_gpu_that_is_required_auto_is_one(folder: Path) -> None:
    code, output = provision(folder, GPU * 3, preflight_gpu_required=False)
    assert code == 0, output
    assert sorted(scripts(folder)) == ["comfyui"]
    assert "#" not in told(folder)["backends"]


def test_a_number_is_taken_as_it_is_and_held_against_the_gpus(folder: Path) -> None:
    code, output = provision(folder, GPU * 3, comfyui_gpus=2)
    assert code == 0, output
    assert sorted(scripts(folder)) == ["comfyui", "comfyui-1"]
    code, output = provision(folder, GPU, comfyui_gpus=2)
    assert (code, "comfyui_gpus is 2 and nvidia-smi finds 1" in output) == (2, True), output


def test_each_port_is_looked_at(folder: Path) -> None:
    port = free_ports(3)[0]
    with socket.socket() as other:
        other.bind(("127.0.0.1", port + 2))
        other.listen()
        code, output = provision(folder, GPU * 3, comfyui_port=port)
    assert code == 2
    assert f"port {port + 2} (ComfyUI of GPU 2) is taken by pid {os.getpid()}" in output
