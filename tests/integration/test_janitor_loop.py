"""The janitor as supervisord runs it: a real process."""

import functools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support import wait_for

from ltxops.upkeep.janitor import Janitor
from ltxops.upkeep.janitor_config import load
from ltxops.upkeep.needed import nothing_is_needed
from ltxops.upkeep.output_root import OutputRoot, lock, open_output_root

LTXOPS = [sys.executable, "-m", "ltxops.cli.main"]


def is_gone(path: Path) -> bool:
    return not path.exists()


def write_config(folder: Path, missing: Path) -> Path:
    jobs = [
        {"name": "broken", "every": "1s", "run": "ttl", "dir": str(missing), "older_than": "1s"},
        {
            "name": "low",
            "every": "1h",
            "run": "pressure",
            "dir": str(folder),
            "older_than": "1s",
            "min_free": "1B",
        },
        {"name": "old", "every": "1s", "run": "ttl", "dir": str(folder), "older_than": "1s"},
    ]
    config = folder.parent / "janitor.yaml"
    config.write_text(json.dumps({"heartbeat": str(folder.parent / "beat"), "jobs": jobs}))
    return config


def test_it_cleans_again_and_again_lives_on_and_stops(tmp_path: Path) -> None:  # R46
    output = tmp_path / "output"
    output.mkdir()
    (output / ".ltxops-output").touch()
    log = tmp_path / "log"
    config = write_config(output, tmp_path / "missing")
    with log.open("wb") as sink:
        janitor = subprocess.Popen(
            [*LTXOPS, "janitor", "--config", str(config)], stderr=sink, stdout=subprocess.PIPE
        )
    try:
        beat = tmp_path / "beat"
        for video in (output / "first.mp4", output / "second.mp4"):
            video.write_bytes(b"v")
            wait_for(functools.partial(is_gone, video))
        assert log.read_text().count("job broken failed") >= 2
        first_beat = beat.stat().st_mtime
        wait_for(lambda: beat.stat().st_mtime > first_beat)
        with open_output_root(str(output)) as root:  # R45
            wait_for(lambda: lock(root))  # a run may have it just now
            wait_for(lambda: "job old: clean ttl" in log.read_text() and "busy" in log.read_text())
        assert "job low: clean pressure" in log.read_text()
        janitor.send_signal(signal.SIGTERM)
        assert janitor.wait(60) == 0
        lines = [line for line in log.read_text().splitlines() if "job broken" in line]
        assert all("does not exist" in line for line in lines)  # one line each, no traceback
        assert "Traceback" not in log.read_text()
    finally:
        janitor.kill()
        janitor.communicate()


# Whose every sleep lasts until the next job.
SLEEPS_LONG = """
import sys
from ltxops.cli.main import main
from ltxops.upkeep import janitor

janitor.TURN_SECONDS = 3600.0
sys.exit(main())
"""


def test_sigterm_ends_a_sleep(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    (output / ".ltxops-output").touch()
    log, config = tmp_path / "log", tmp_path / "janitor.yaml"
    job = {"name": "old", "every": "1h", "run": "ttl", "dir": str(output), "older_than": "1s"}
    config.write_text(json.dumps({"jobs": [job]}))
    with log.open("wb") as sink:
        janitor = subprocess.Popen(
            [sys.executable, "-c", SLEEPS_LONG, "janitor", "--config", str(config)], stderr=sink, stdout=sink
        )
    try:
        wait_for(lambda: "job old: clean ttl" in log.read_text())
        wait_for(lambda: Path(f"/proc/{janitor.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "S")
        janitor.send_signal(signal.SIGTERM)
        assert janitor.wait(60) == 0
    finally:
        janitor.kill()
        janitor.wait()
    assert "janitor stopped by SIGTERM" in log.read_text().splitlines()[-2]


def test_a_misspelt_key_exits_2(tmp_path: Path) -> None:
    config = tmp_path / "janitor.yaml"
    config.write_text("jobs:\n  - {name: a, evry: 1s, run: ttl, dir: /tmp/o, older_than: 1s}\n")
    done = subprocess.run(
        [*LTXOPS, "janitor", "--config", str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "'evry'" in done.stderr


# SIGTERM comes with the hundredth deletion, however busy the machine is.
STOPPED_IN_THE_MIDDLE = """
import os, signal, sys
from ltxops.cli.main import main

deletions = 0

def count(event, _arguments):
    global deletions
    deletions += event == "os.remove"
    if event == "os.remove" and deletions == 100:
        os.kill(os.getpid(), signal.SIGTERM)

sys.addaudithook(count)
sys.exit(main())
"""


def test_what_a_run_had_deleted_when_it_was_stopped_is_logged(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    (output / ".ltxops-output").touch()
    for number in range(1000):
        (output / f"{number}.png").touch()
    time.sleep(1.1)
    config = tmp_path / "janitor.yaml"
    job = {"name": "old", "every": "1h", "run": "ttl", "dir": str(output), "older_than": "1s"}
    config.write_text(json.dumps({"jobs": [job], "reports": str(tmp_path / "reports")}))
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_IN_THE_MIDDLE, "janitor", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    deleted = 1000 - len(list(output.glob("*.png")))
    assert 90 < deleted <= 110
    report = json.loads((tmp_path / "reports/old.json").read_text())
    assert (report["interrupted"], report["deleted_files"], report["by"]) == (True, deleted, "janitor")
    log = done.stderr + done.stdout
    assert f"deleted {deleted} files" in log
    assert "janitor stopped by SIGTERM" in log.splitlines()[-2]


def test_a_run_that_does_not_see_sigterm_is_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "output"
    output.mkdir()
    (output / ".ltxops-output").touch()
    config = write_config(output, tmp_path / "missing")
    lines: list[str] = []

    def write_line(line: str) -> None:
        lines.append(line)
        assert len(lines) < 20, lines

    def free_bytes(_root: OutputRoot) -> int:
        if any("job broken failed" in line for line in lines):
            signal.raise_signal(signal.SIGTERM)
        return 2**40

    # Job "low" looks at the disk first and last, and asks about SIGTERM only before a deletion.
    monkeypatch.setattr(OutputRoot, "free_bytes", free_bytes)
    Janitor(load(str(config)), nothing_is_needed, write_line).run()
    assert [line.split(" ", 1)[1].split(":")[0] for line in lines] == [
        "janitor started with 3 jobs",
        "job broken failed",
        "job low",
        "janitor stopped by SIGTERM",
    ]
