"""What the cleanup role renders: settings that the cleaners accept, and entries that cron takes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ltxops.upkeep.janitor_config import load

REPO = Path(__file__).parents[2]


def render(folder: Path, **variables: Any) -> tuple[Path, str]:
    """Return the janitor's configuration and the text of the cron entries."""
    settings = {
        "rendered": str(folder),
        "ansible_remote_tmp": str(folder / "tmp"),
        "ansible_python_interpreter": sys.executable,
        "ltxops_state_dir": str(folder),
        "ltxops_log_dir": str(folder),
        "models_root": "/workspace/ComfyUI/models",
        "__cleanup_cron": {"rc": 0},
        **variables,
    }
    command = [
        str(Path(sys.executable).parent / "ansible-playbook"),
        *("-i", "localhost,", "tests/ansible/cleanup.yml", "-e", json.dumps(settings)),
    ]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(REPO / "ansible.cfg")}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    return folder / "janitor.yaml", (folder / "cron").read_text()


def test_the_defaults_are_accepted(tmp_path: Path) -> None:
    file, _ = render(tmp_path, cleanup_ttl_enabled=True)
    config = load(str(file))
    pressure, ttl = config.jobs
    assert (pressure.min_free_bytes, pressure.older_than_seconds, pressure.every_seconds) == (
        512 * 2**20,
        24 * 3600,
        600,
    )
    assert (ttl.older_than_seconds, ttl.every_seconds) == (600, 600)
    kinds = ["temp", "uploads", "logs", "parts", "pip-cache", "hf-cache"]
    assert [step.kind for step in pressure.steps] == kinds
    assert pressure.wrapper is not None
    assert pressure.wrapper.database == tmp_path / "wrapper/jobs.sqlite3"
    assert config.log == tmp_path / "cleanup.log"


def test_in_scope_user_nothing_outside_our_folder_is_cleaned(tmp_path: Path) -> None:
    root = tmp_path / "root"
    file, _ = render(tmp_path, ltxops_scope="user", ltxops_root=str(root), ltxops_log_dir=f"{root}/logs")
    config = load(str(file))
    assert all(Path(step.dir).is_relative_to(root) for step in config.jobs[0].steps[:3])
    assert [step.kind for step in config.jobs[0].steps] == ["temp", "uploads", "logs", "parts"]
    assert config.heartbeat is not None  # no cron there


def test_an_operator_chooses_steps_order_and_ages(tmp_path: Path) -> None:
    steps = [{"kind": "logs", "dir": "/srv/logs"}, {"kind": "temp", "older_than": "5m"}]
    file, _ = render(tmp_path, cleanup_pressure_steps=steps)
    found = load(str(file)).jobs[0].steps
    assert [(step.kind, step.older_than_seconds) for step in found] == [("logs", 60), ("temp", 300)]
    assert found[0].dir == "/srv/logs"


@pytest.mark.parametrize("interval", [1, 7, 10, 60])
def test_cron_entries_are_whole_and_staggered(tmp_path: Path, interval: int) -> None:  # R45, R46
    _, text = render(tmp_path, cleanup_ttl_enabled=True, cleanup_interval_minutes=interval)
    entries = [line for line in text.splitlines() if re.match(r"[0-9*]", line)]
    assert len(entries) == 2
    minutes = [{int(minute) for minute in entry.split()[0].split(",")} for entry in entries]
    assert all(found <= set(range(60)) and found for found in minutes)
    if interval == 1:
        assert " root sleep 30; " in entries[1]
    else:
        assert not minutes[0] & minutes[1]
    for entry in entries:
        assert entry.split()[1:5] == ["*"] * 4
        assert entry.endswith("2>&1")  # what is printed would be mailed
        assert "%" not in entry
    assert text.endswith("\n")  # cron overlooks a last line without an end
    assert 'MAILTO=""' in text
