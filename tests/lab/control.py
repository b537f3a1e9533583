"""The operator's side of a lab: an inventory, a playbook that runs on it, and what its output says."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.base import REPO
from tests.lab.lab import Lab

ANSIBLE_PLAYBOOK = str(Path(sys.executable).with_name("ansible-playbook"))
RUN_SECONDS = 1200.0


@dataclass(frozen=True)
class Outcome:
    """How a playbook ended: its exit code and all that it printed."""

    code: int
    output: str

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        """The counts of each host: ok, changed, unreachable, failed and so on."""
        lines = re.findall(r"^(\S+) +: (ok=.*)$", self.output, re.MULTILINE)
        return {
            host: {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", counts)}
            for host, counts in lines
        }

    @property
    def closing(self) -> list[str]:
        """The lines after the recap."""
        last = self.output.rsplit("PLAY RECAP", 1)[-1].splitlines()[1:]
        return [line for line in last if line.strip() and not re.match(r"\S+ +: ok=", line)]

    def changed(self, host: str) -> list[str]:
        """The tasks that changed a host."""
        return [
            task for task, text in self._tasks() if re.search(rf"^changed: \[{host}\]", text, re.MULTILINE)
        ]

    def _tasks(self) -> list[tuple[str, str]]:
        pieces = re.split(r"^(?:TASK|RUNNING HANDLER) \[(.*?)\] \**$", self.output, flags=re.MULTILINE)
        return list(zip(pieces[1::2], pieces[2::2], strict=True))


class Running:
    """A playbook under way, in a process group of its own."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                command, cwd=REPO, env=environment, stdout=stream, stderr=stream, start_new_session=True
            )

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def until(self, reached: Callable[[], bool]) -> None:
        """Wait for a moment of the run; raises AssertionError when the run is over before."""
        while not reached():
            assert self._process.poll() is None, self.output[-3000:]
            time.sleep(0.05)

    def until_task(self, name: str) -> None:
        """Wait until a task of which the name begins so has its first result: before, Ansible is silent."""
        self.until(lambda: f"\nTASK [{name}" in self.output)

    def kill(self) -> None:
        """SIGKILL to the control process and all that it has forked."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def end(self) -> Outcome:
        """Wait for the end of the run."""
        return Outcome(self._process.wait(RUN_SECONDS), self.output)


class Control:
    """Where the operator works: every run is with these settings and those of the call."""

    def __init__(self, lab: Lab, **settings: Any) -> None:
        self.lab = lab
        self.settings = settings

    def begin(self, *arguments: str, hosts: Iterable[str] = (), **settings: Any) -> Running:
        """Start provision.yml on some hosts of the lab, without any on all."""
        inventory = self.lab.folder / "inventory.json"
        inventory.write_text(json.dumps(self.lab.inventory()))
        limit = ["--limit", ",".join(hosts)] if hosts else []
        given = ["-e", json.dumps({**self.settings, **settings})]
        command = [ANSIBLE_PLAYBOOK, "-i", str(inventory), "provision.yml", *limit, *given, *arguments]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(REPO / "ansible.cfg")}
        runs = len(list(self.lab.folder.glob("run-*.log")))
        return Running(command, environment, self.lab.folder / f"run-{runs + 1}.log")

    def provision(self, *arguments: str, hosts: Iterable[str] = (), **settings: Any) -> Outcome:
        return self.begin(*arguments, hosts=hosts, **settings).end()


def programs(host: Any) -> dict[str, str]:
    """Return what supervisord on a host runs: program → its state and pid."""
    lines = host.ssh("supervisorctl status").stdout.splitlines()
    return {line.split()[0]: " ".join(line.split()[1:4]).rstrip(",") for line in lines}
