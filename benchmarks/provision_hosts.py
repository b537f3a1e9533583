"""Bare hosts for `benchmarks.provision`, and how the playbook is run against them as an operator would."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.integration.bare_host import REPO, BareHost, add_operator, bare_host
from tests.support import free_port, free_ports

PORTS = ("gateway_port", "wrapper_port", "comfyui_port")
#: What a machine without a GPU is provisioned with; the rest is as on a GPU host.
WITHOUT_GPU: dict[str, Any] = {
    "preflight_gpu_required": False,
    "preflight_min_ram_gib": 1,
    "preflight_disk_reserve_gib": 0,
    "models_profile": "benchmark",
    "models_reserve": "64MiB",
}


EMBEDDED: dict[str, Any] = {"comfyui_engine": "embedded"}
#: What ComfyUI's requirements.txt asks for and takes long to install; role comfyui pins the versions.
REQUIREMENTS = """torch
torchvision
torchaudio
transformers>=4.50
tokenizers
sentencepiece
safetensors
einops
scipy
kornia
av
"""
#: Imports what ComfyUI does first, and hands over to the engine that needs no GPU.
MAIN = """import os, sys
import torch, torchaudio, transformers
command = "/opt/ltxops/venv/bin/ltxops"
os.execv(command, [command, "embedded", "comfyui", *sys.argv[1:]])
"""


@dataclass(frozen=True)
class Run:
    """One run of the playbook: wall clock in seconds, how many tasks changed something, its longest tasks."""

    seconds: float
    changed: int
    longest: list[str]


@contextmanager
def bare_hosts(folder: Path, count: int) -> Iterator[list[BareHost]]:
    """Start hosts with sshd and Python alone, each reached as a user who may become root."""
    with ExitStack() as stack:
        hosts = []
        for number in range(count):
            (folder / f"host-{number}").mkdir(parents=True)
            hosts.append(stack.enter_context(bare_host(folder / f"host-{number}")))
            add_operator(hosts[-1])
        yield hosts


def inventory(folder: Path, hosts: Sequence[BareHost], hubs: Sequence[str]) -> Path:
    """Write an inventory of the hosts, each with its hub.

    All have the network of this machine, so each has ports of its own.
    """
    ports = iter(free_ports(len(PORTS) * len(hosts)))
    entries = {
        f"host-{number}": {
            **host.access,
            "ansible_user": "operator",
            "ansible_become": True,
            "models_hub": hub,
            **{name: next(ports) for name in PORTS},
        }
        for number, (host, hub) in enumerate(zip(hosts, hubs, strict=True))
    }
    path = folder / "hosts.yml"
    path.write_text(yaml.safe_dump({"all": {"hosts": entries}}))
    return path


@contextmanager
def engine_sources(folder: Path) -> Iterator[dict[str, Any]]:
    """Serve a repository in ComfyUI's place over git's protocol; gives the settings to clone it."""
    source = folder / "ComfyUI"
    source.mkdir(parents=True)
    (source / "main.py").write_text(MAIN)
    (source / "requirements.txt").write_text(REQUIREMENTS)
    git = [
        "git",
        "-C",
        str(source),
        "-c",
        "user.name=benchmark",
        "-c",
        "user.email=benchmark@example.invalid",
    ]
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "One"], ["tag", "v1"]):
        subprocess.run([*git, *words], check=True)
    port = free_port()
    listen = ["--reuseaddr", "--listen=127.0.0.1", f"--port={port}", f"--base-path={folder}", "--export-all"]
    with subprocess.Popen(["git", "daemon", *listen, str(folder)], start_new_session=True) as daemon:
        try:
            yield {
                "comfyui_engine": "git",
                "comfyui_repo": f"git://127.0.0.1:{port}/ComfyUI",
                "comfyui_version": "v1",
                "comfyui_nodes": [],
            }
        finally:
            os.killpg(daemon.pid, signal.SIGTERM)


def provision(hosts: Path, manifest: Path, engine: dict[str, Any]) -> Run:
    """Run the playbook to its end. Raises SystemExit with its last lines when it fails."""
    settings = {**WITHOUT_GPU, **engine, "models_manifest": str(manifest)}
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(hosts), "provision.yml"]
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
        "ANSIBLE_CALLBACKS_ENABLED": "verdict,durations",
        # A connection that an earlier run left open would be a start that no operator has.
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(hosts.parent / f"c{time.monotonic_ns() % 10**6}"),
    }
    begin = time.monotonic()
    done = subprocess.run(
        [*command, "-e", json.dumps(settings)], cwd=REPO, env=environment, capture_output=True, text=True
    )
    seconds = time.monotonic() - begin
    if done.returncode:
        raise SystemExit(f"the playbook failed:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    changed = sum(int(count) for count in re.findall(r"changed=(\d+)", done.stdout))
    return Run(seconds, changed, re.findall(r"^ +[0-9.]+ s  .*$", done.stdout, re.MULTILINE))


def manifest_with_ballast(folder: Path, root: Path, size: int) -> Path:
    """Write a manifest whose profile `benchmark` has the demo's stand-ins and a file of `size` random bytes.

    The stand-ins weigh next to nothing, so the ballast is what takes time. It lies under `root` for the hub.
    """
    content: dict[str, Any] = yaml.safe_load((REPO / "inventory/demo/models.yaml").read_text())
    content["models"]["ballast"] = {
        "repo": "benchmark/ballast",
        "file": "ballast.safetensors",
        "dest": "loras/",
    }
    content["profiles"]["benchmark"] = {"extends": ["vast"], "models": ["ballast"]}
    ballast = root / "benchmark/ballast/ballast.safetensors"
    ballast.parent.mkdir(parents=True)
    ballast.write_bytes(os.urandom(size))
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump(content))
    lock = yaml.safe_load((REPO / "inventory/demo/models.lock.yaml").read_text())
    (folder / "models.lock.yaml").write_text(yaml.safe_dump(lock))
    return path
