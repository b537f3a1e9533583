"""Engine git: the path a GPU host takes, with local repositories in the place of ComfyUI's and its nodes'.

The program in the repository hands over to the embedded engine; cloning, virtual environment, requirements,
nodes, import gate, start and smoke are the real ones.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from tests.integration.demo_host import LTXOPS, Demo, changed_tasks, last_line, new_host

GOOD = f"""
    import os, sys
    import wheel_of_comfyui_requirements_probe as probe
    assert probe
    os.execv({LTXOPS!r}, [{LTXOPS!r}, "embedded", "comfyui", *sys.argv[1:]])
"""
#: A ComfyUI whose custom nodes did not load: it answers, and lacks what they bring.
WITHOUT_NODES = """
    import argparse, http.server
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    port = parser.parse_known_args()[0].port
    print("Cannot import ComfyUI-LTXVideo module for custom nodes: no module named kornia", flush=True)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

    http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit(folder: Path, files: dict[str, str]) -> str:
    """Write the files, commit them, and return the commit."""
    folder.mkdir(exist_ok=True)
    if not (folder / ".git").is_dir():
        git(folder, "init", "--quiet")
    for name, content in files.items():
        (folder / name).write_text(dedent(content))
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "A version")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    # A package of our own in the requirements proves that they are installed into ComfyUI's own environment.
    package = folder / "probe"
    package.mkdir()
    (package / "wheel_of_comfyui_requirements_probe.py").write_text("")
    (package / "pyproject.toml").write_text(
        '[project]\nname = "comfyui-requirements-probe"\nversion = "1"\n'
        '[tool.setuptools]\npy-modules = ["wheel_of_comfyui_requirements_probe"]\n'
    )
    commit(folder / "comfyui", {"main.py": GOOD, "requirements.txt": f"{package}\n", "models_readme": ""})
    git(folder / "comfyui", "tag", "v1")
    commit(folder / "comfyui", {"main.py": WITHOUT_NODES})
    git(folder / "comfyui", "tag", "v2")
    return folder


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, sources: Path) -> Iterator[Demo]:
    nodes = commit(sources / "nodes", {"__init__.py": "", "requirements.txt": "einops\n"})
    demo = new_host(tmp_path_factory.mktemp("git"))
    demo.settings = {
        "comfyui_engine": "git",
        "comfyui_repo": str(sources / "comfyui"),
        "comfyui_version": "v1",
        "comfyui_nodes": [{"name": "ComfyUI-LTXVideo", "repo": str(sources / "nodes"), "version": nodes}],
        "preflight_disk_reserve_gib": 1,
    }
    demo.first = demo.run()
    yield demo
    assert demo.script("--down").returncode == 0
    assert demo.processes() == set()


def test_a_cloned_engine_passes_gate_and_smoke(host: Demo) -> None:
    assert host.first
    assert host.first.returncode == 0, host.first.stdout[-3000:]
    current = host.folder / "workspace/ComfyUI-versions/current"
    assert list(current.glob("venv/lib/python*/site-packages/einops"))
    assert (current / "ComfyUI/custom_nodes/ComfyUI-LTXVideo/__init__.py").is_file()
    command = Path(f"/proc/{host.pids()['comfyui']}/cmdline").read_bytes().split(b"\0")
    assert b"--base-directory" in command


def test_a_second_run_clones_installs_and_restarts_nothing(host: Demo) -> None:  # R47
    before = host.pids()
    again = host.run()
    assert (again.returncode, changed_tasks(again.stdout), host.pids()) == (0, 0, before)


def test_a_version_without_the_nodes_stops_at_the_gate_and_the_running_one_goes_on(host: Demo) -> None:
    before = host.pids()
    refused = host.run(comfyui_version="v2")
    assert refused.returncode == 1
    closing = refused.stdout.rsplit("PLAY RECAP", 1)[1]
    assert "LTXVGemmaCLIPModelLoader" in closing
    assert "no module named kornia" in closing
    assert host.pids() == before
    assert host.smoke("--case", "check").returncode == 0
    assert host.run().returncode == 0


def test_a_version_that_does_not_exist_is_named(host: Demo) -> None:
    refused = host.run(comfyui_version="v9")
    assert refused.returncode != 0
    assert "v9" in last_line(refused.stdout)
