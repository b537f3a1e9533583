"""What a sync shows while it runs, as a process of its own against a hub that is slow."""

import json
import os
import pty
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plugins.modules.ltxops_join import process_alive
from tests.integration.models_support import LORA, RunningHub, clean_environment, command, ltxops
from tests.integration.pace import Pace, large_file
from tests.support import wait_for

SIZE = 48 * 1024 * 1024
#: Bytes a second. A download is slow until what it is to show was seen, and then comes to an end.
SLOW, QUICK = 2_000_000, 200_000_000


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    large_file(tmp_path / "hub", "owner/lora/lora.safetensors", SIZE)
    with RunningHub(tmp_path) as running:
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state/progress.json"


def sync(hub: RunningHub, *more: str | Path) -> list[str]:
    root = hub.manifest_path.parent / "models"
    place = ["--manifest", str(hub.manifest_path), "--profile", "one", "--root", str(root)]
    return ["sync", *place, "--hub", hub.url, "--reserve", "0", *map(str, more)]


def content(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    return found


def wait_until_under_way(file: Path) -> dict[str, Any]:
    wait_for(lambda: content(file).get("bytes_done", 0) >= SIZE // 100)
    return content(file)


def test_events_tell_of_each_step_and_the_result_is_the_last_line(hub: RunningHub, home: Path) -> None:
    pace = hub.fault = Pace(hub, SLOW)
    begin = time.monotonic()
    told, progress = [], []
    with subprocess.Popen(
        command(*sync(hub, "--events")),
        env=clean_environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout and process.stderr
        for line in process.stdout:
            told.append(json.loads(line))
            if told[-1].get("event") != "progress":
                continue
            progress.append(told[-1])
            counted = [event["bytes_done"] for event in progress]
            if pace.bytes_per_second == SLOW and len(progress) >= 3 and counted[-1] > counted[0]:
                # It was measured for a part of the time that has passed here.
                least = counted[-1] / (time.monotonic() - begin)
                assert least <= progress[-1]["rate_bytes_per_second"] <= SLOW
                pace.bytes_per_second = QUICK
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, b"")
    *events, result = told
    assert (result["ok"], result["fetched"]) == (True, [LORA])
    kinds = [event["event"] for event in events]
    assert [kind for kind in kinds if kind != "progress"] == ["note", "start", "finish", "done"]
    assert 3 <= len(progress) <= (time.monotonic() - begin) * 2 + 1
    assert counted == sorted(counted)
    last = progress[-1]
    assert (last["bytes_total"], last["files_total"], last["files_done"]) == (SIZE, 1, 0)
    assert events[-1]["bytes_done"] == SIZE and events[-1]["exit_code"] == 0


def test_events_of_a_failure_end_with_its_sentence_and_exit_code(hub: RunningHub, home: Path) -> None:
    done = ltxops(*sync(hub, "--events", "--require-lock"), home=home)
    event, result = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == event["exit_code"] == result["exit_code"] == 2
    assert (event["event"], event["ok"], event["error"]) == ("done", False, result["error"])


def test_who_reads_events_may_go_and_the_sync_goes_on(hub: RunningHub, home: Path, file: Path) -> None:
    hub.fault = Pace(hub, 16_000_000)
    argv = command(*sync(hub, "--events", "--progress-file", file))
    with subprocess.Popen(argv, env=clean_environment(home), stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
    assert content(file)["state"] == "done"
    assert (hub.manifest_path.parent / "models" / LORA).stat().st_size == SIZE


def test_a_reader_that_is_slow_holds_up_no_download(hub: RunningHub, home: Path) -> None:
    reading, writing = os.pipe()
    # A pipe that is full before the first event.
    os.set_blocking(writing, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    with subprocess.Popen(
        command(*sync(hub, "--events")), env=clean_environment(home), stdout=writing
    ) as process:
        os.close(writing)
        weight = hub.manifest_path.parent / "models" / LORA
        deadline = time.monotonic() + 60
        while not weight.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        # Read before anything is checked, so that the process can end.
        here, waiting = weight.exists(), process.poll() is None
        with os.fdopen(reading, "rb") as stream:
            lines = stream.read().lstrip(b"x").splitlines()
        assert process.wait(60) == 0
    assert here and waiting
    assert json.loads(lines[-1])["fetched"] == [LORA]


def test_a_log_has_a_line_every_few_seconds(hub: RunningHub, home: Path) -> None:
    pace = hub.fault = Pace(hub, SLOW)
    before = time.monotonic()
    so_far, rest = [], ""
    with subprocess.Popen(
        command(*sync(hub)),
        env=clean_environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if line.startswith("so far"):
                so_far.append(line.rstrip())
                pace.bytes_per_second = QUICK
            else:
                rest += line
    assert process.returncode == 0
    assert 1 <= len(so_far) <= (time.monotonic() - before) / 5
    size = r"\d+\.\d [KM]iB"
    shape = rf"so far   {size}, \d+ % of 48\.0 MiB, {size}/s, about \d+ (s|min) left, 0 of 1 files"
    assert re.fullmatch(shape, so_far[0])
    assert f"proven   {LORA} (48.0 MiB in " in rest


def test_a_terminal_has_a_bar_for_the_file_and_one_for_all(hub: RunningHub, home: Path) -> None:
    pace = hub.fault = Pace(hub, SLOW)
    master, terminal = pty.openpty()
    shown = bytearray()

    def read() -> None:
        # Reading from a terminal whose other side is closed is an error on Linux.
        try:
            while part := os.read(master, 65536):
                shown.extend(part)
        except OSError:
            pass

    def text() -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode(errors="ignore"))

    environment = clean_environment(home, TERM="xterm", COLUMNS="120")
    reader = threading.Thread(target=read)
    with subprocess.Popen(
        command(*sync(hub)), env=environment, stderr=terminal, stdout=subprocess.PIPE
    ) as process:
        os.close(terminal)
        reader.start()
        wait_for(lambda: re.search(r"all files \(0/1\).*/48\.0 MiB.* MB/s", text()))
        wait_for(lambda: re.search(r"renamed\.safetensors +.*/48\.0 MiB.* MB/s", text()))
        pace.bytes_per_second = QUICK
        process.communicate(timeout=60)
    reader.join(60)
    os.close(master)
    assert process.returncode == 0
    assert f"proven {LORA} (48.0 MiB)" in text()


def test_the_file_tells_how_far_it_is_and_how_it_ended(hub: RunningHub, home: Path, file: Path) -> None:
    pace = hub.fault = Pace(hub, SLOW)
    seen = []
    begin = time.monotonic()
    with subprocess.Popen(
        command(*sync(hub, "--progress-file", file)),
        env=clean_environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        under_way = wait_until_under_way(file)
        assert under_way["state"] == "running" and under_way["pid"] == process.pid
        assert process_alive(under_way["pid"], under_way["pid_start_ticks"])
        assert [row["file"] for row in under_way["files"]] == [LORA]
        assert 0 < under_way["files"][0]["percent"] < 100
        assert "% of 48.0 MiB" in under_way["summary"]
        pace.bytes_per_second = 16_000_000
        while process.poll() is None:
            # Whoever reads finds a whole file at any moment.
            seen.append(content(file)["updated"])
            time.sleep(0.02)
        process.communicate()
    assert len(set(seen)) <= time.monotonic() - begin + 2
    ended = content(file)
    assert (ended["state"], ended["exit_code"], ended["error"]) == ("done", 0, None)
    assert (ended["bytes_done"], ended["files_done"], ended["files"]) == (SIZE, 1, [])
    assert list(file.parent.iterdir()) == [file]


def test_the_file_of_a_killed_sync_can_be_told_from_that_of_a_running_one(  # R17
    hub: RunningHub, home: Path, file: Path
) -> None:
    hub.fault = Pace(hub, SLOW)
    with subprocess.Popen(
        command(*sync(hub, "--progress-file", file)), env=clean_environment(home), stderr=subprocess.PIPE
    ) as process:
        wait_until_under_way(file)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    left = content(file)
    assert left["state"] == "running"
    assert not process_alive(left["pid"], left["pid_start_ticks"])


def test_a_run_that_waits_for_the_lock_leaves_the_file_to_the_one_that_has_it(  # R22
    hub: RunningHub, home: Path, file: Path
) -> None:
    pace = hub.fault = Pace(hub, SLOW // 4)
    argv = command(*sync(hub, "--progress-file", file))
    lock = hub.manifest_path.parent / "models/.ltxops/lock"
    pipes = {"env": clean_environment(home), "stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(argv, **pipes) as first:  # type: ignore[call-overload]
        wait_until_under_way(file)
        refused = ltxops(*sync(hub, "--progress-file", file), home=home)
        assert refused.returncode == 6
        assert (content(file)["state"], content(file)["pid"]) == ("running", first.pid)
        with subprocess.Popen([*argv, "--wait", "60"], **pipes) as second:  # type: ignore[call-overload]
            wait_for(lambda: any(one.resolve() == lock for one in Path(f"/proc/{second.pid}/fd").iterdir()))
            # The file is written once a second.
            time.sleep(1.5)
            assert second.poll() is None
            assert (content(file)["state"], content(file)["pid"]) == ("running", first.pid)
            pace.bytes_per_second = QUICK
            first.communicate(timeout=60)
            second.communicate(timeout=60)
        assert (first.returncode, second.returncode) == (0, 0)
    assert (content(file)["state"], content(file)["pid"]) == ("done", second.pid)


def test_a_file_that_cannot_be_written_is_noted_once_and_stops_nothing(
    hub: RunningHub, home: Path, tmp_path: Path
) -> None:
    nowhere = tmp_path / "no-such-folder/progress.json"
    hub.fault = Pace(hub, 24_000_000)
    done = ltxops(*sync(hub, "--progress-file", nowhere), home=home)
    assert done.returncode == 0
    said = f"progress cannot be written to {nowhere} (No such file or directory); the sync goes on without"
    assert done.stderr.splitlines().count(said) == 1


def test_a_failed_sync_says_so_in_the_file(hub: RunningHub, home: Path, file: Path) -> None:
    content_there = hub.file("owner/lora/lora.safetensors").read_bytes()
    hub.file("owner/lora/lora.safetensors").write_bytes(content_there[:-1] + b"X" * 2)
    failed = ltxops(*sync(hub, "--progress-file", file, "--json"), home=home)
    told = content(file)
    assert (told["state"], told["exit_code"]) == ("failed", failed.returncode)
    assert told["error"] == json.loads(failed.stdout)["error"]
