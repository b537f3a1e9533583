#!/usr/bin/python
"""Ansible module: how a task in the background stands. The action of the same name polls it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: ltxops_join
short_description: Wait for a task in the background, and show how far it is
description:
  - Waits for a task with C(poll=0), and ends with its result. Unlike C(async_status) it sees at once when the
    task was killed or the host was started again.
  - While it waits, one line a host tells how far an ltxops command is, from its C(--progress-file);
    of any other task, for how long it runs.
  - The file may be written by another run, which the one in the background waits for.
options:
  job:
    description: What the task in the background registered.
    type: dict
    required: true
  progress_file:
    description: File on the host that the command keeps up to date.
    type: str
  deadline_seconds:
    description: Longest time to wait.
    type: int
    required: true
author: ["the ltxops maintainers"]
"""

EXAMPLES = r"""
- name: Wait for the weights
  ltxops_join:
    job: "{{ started }}"
    progress_file: /var/lib/ltxops/models-progress.json
    deadline_seconds: 86400
"""

RETURN = r"""
result:
  description: The JSON object that the command printed.
  returned: when the command ended
  type: dict
"""

#: What the caller is told of a result; the rest is Ansible's own, which it may not take twice.
TOLD = ("failed", "msg", "rc", "result", "log", "changed")
_LOOK_SECONDS = 0.1
_LOOK_AT_PROCESSES_SECONDS = 1.0


def result_in(text: str) -> dict[str, Any] | None:
    """Return the command's result from the job's file, None while the command runs.

    Ansible's wrapper writes `started` and `finished` first, and the module's own result in their place.
    """
    try:
        content = json.loads(text)
    except ValueError:
        return None
    if not isinstance(content, dict) or ("started" in content and not content.get("finished")):
        return None
    return {name: content[name] for name in TOLD if name in content}


def words_of(pid: str) -> list[str]:
    """Return the command line of a process; empty when it is gone."""
    try:
        return (Path("/proc") / pid / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def job_alive(results_file: Path) -> bool:
    """Say whether Ansible's wrapper of the job still runs: the job's name is a word of its command line."""
    name = results_file.name.rpartition(".")[0]
    pids = (entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return any(name in words_of(pid) for pid in pids)


def process_alive(pid: int, start_ticks: int) -> bool:
    """Say whether the process that wrote a progress file runs; another one may have its number by now."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        state, *fields = stat.rsplit(")", 1)[1].split()
        return state not in ("Z", "X") and int(fields[18]) == start_ticks
    except (OSError, ValueError, IndexError):
        return False


def read_progress(path: Path) -> dict[str, Any] | None:
    """Return what a running command says of itself; None where there is nothing, or a dead one left it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["state"] == "running" and process_alive(content["pid"], content["pid_start_ticks"]):
            return {name: content[name] for name in ("summary", "note", "bytes_total")}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def look(results_file: Path, wait_seconds: float) -> dict[str, Any]:
    """Return how the job stands as soon as it has ended, after `wait_seconds` at the latest."""
    deadline = time.monotonic() + wait_seconds
    looked_at_processes = float("-inf")
    alive = True
    while True:
        if time.monotonic() - looked_at_processes >= _LOOK_AT_PROCESSES_SECONDS:
            looked_at_processes = time.monotonic()
            # Before the file: what ends in between has written its result.
            alive = job_alive(results_file)
        try:
            result = result_in(results_file.read_text(encoding="utf-8"))
        except OSError:
            result = None
        if result is not None or not alive or time.monotonic() >= deadline:
            return {"alive": alive, "outcome": result}
        time.sleep(_LOOK_SECONDS)


def main() -> None:
    """Look once; the action calls again."""
    module = AnsibleModule(
        argument_spec={
            "results_file": {"type": "str", "required": True},
            "progress_file": {"type": "str"},
            "wait_seconds": {"type": "float", "required": True},
        },
        supports_check_mode=True,
    )
    found = look(Path(module.params["results_file"]), module.params["wait_seconds"])
    progress_file = module.params["progress_file"]
    progress = read_progress(Path(progress_file)) if progress_file else None
    module.exit_json(changed=False, progress=progress, **found)


if __name__ == "__main__":
    main()
