"""A demo host for tests: scripts/demo on this checkout, in a folder and on ports of its own."""

import json
import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import free_ports as free_ports

REPO = Path(__file__).parents[2]
LTXOPS = str(REPO / ".venv/bin/ltxops")


@dataclass
class Demo:
    """One demo host: where it lies, its ports, and how its script is called."""

    folder: Path
    ports: dict[str, int]
    hub_port: int
    first: subprocess.CompletedProcess[str] | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def run(self, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        given = json.dumps({**self.ports, **self.settings, **settings})
        return self.script("-e", given, *arguments)

    def script(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "LTXOPS_DEMO_DIR": str(self.folder),
            "LTXOPS_DEMO_HUB_PORT": str(self.hub_port),
        }
        command = [str(REPO / "scripts/demo"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)

    def start(self, playbook: str, **settings: Any) -> "subprocess.Popen[str]":
        """Run another playbook than the script's own, in a process group of its own."""
        environment = {
            **os.environ,
            "LTXOPS_DEMO_DIR": str(self.folder),
            "LTXOPS_DEMO_HUB": f"http://127.0.0.1:{self.hub_port}",
            "ANSIBLE_HOME": str(self.folder / "run/ansible"),
            "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
        }
        given = json.dumps({**self.ports, **self.settings, **settings})
        command = [str(REPO / ".venv/bin/ansible-playbook"), "-i", "inventory/demo/hosts.yml", playbook]
        return subprocess.Popen(
            [*command, "-e", given],
            cwd=REPO,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def token(self) -> str:
        return (self.folder / "etc/token").read_text().strip()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['gateway_port']}"

    def curl(self, path: str, *arguments: str) -> tuple[int, str]:
        command = ["curl", "-sS", "-w", "\n%{http_code}", *arguments, self.url + path]
        body, _, code = subprocess.run(
            command, capture_output=True, text=True, timeout=120
        ).stdout.rpartition("\n")
        return int(code), body

    def authorized(self, path: str, *arguments: str) -> tuple[int, str]:
        return self.curl(path, "-H", f"Authorization: Bearer {self.token}", *arguments)

    def pids(self) -> dict[str, int]:
        status = self.services("status", "--json").stdout
        return {str(program["name"]): int(program["pid"] or 0) for program in json.loads(status)["programs"]}

    def services(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [LTXOPS, "services", *arguments, "--config", str(self.folder / "etc/host.json")]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def supervisorctl(self, *arguments: str) -> str:
        binary = str(self.folder / "home/venv/bin/supervisorctl")
        command = [binary, "-c", str(self.folder / "etc/supervisord.conf"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout

    def smoke(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [LTXOPS, "smoke", "--url", self.url, "--token-file", str(self.folder / "etc/token")]
        command += ["--out", str(self.folder / "smoke")]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)

    def processes(self) -> set[int]:
        """Every process whose command line or environment names this folder."""
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                named = str(self.folder).encode() in (process / "cmdline").read_bytes()
            except OSError:
                continue
            if named and int(process.name) != os.getpid():
                found.add(int(process.name))
        return found


def new_host(folder: Path) -> Demo:
    """A demo host that has not run yet, on free ports."""
    *ports, hub_port = free_ports(4)
    names = ("gateway_port", "wrapper_port", "comfyui_port")
    return Demo(folder, dict(zip(names, ports, strict=True)), hub_port)


def changed_tasks(output: str) -> int:
    found = re.search(r"changed=(\d+)", output)
    assert found, output
    return int(found.group(1))


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]
