"""The watchdog with a real supervisord: hung and crashed programs, and those that lost their GPU."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_services_supervised import LTXOPS, SERVER, Supervised

from ltxops.errors import CheckFailed
from ltxops.upkeep.supervisor import processes

#: Answers until it is told to hang, and starts a child that ignores SIGTERM, as a worker of a framework may.
WORKER = """
import http.server, subprocess, sys
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", child])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/hang":
            import time; time.sleep(600)
        if self.path == "/cuda":
            print("RuntimeError: CUDA error: an illegal memory access was encountered", flush=True)
        if self.path == "/eat":
            eaten = bytearray(2**30)
        if self.path == "/memory":
            print("torch.OutOfMemoryError: CUDA out of memory.", flush=True)
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def host() -> Iterator[Supervised]:
    folder = Path(tempfile.mkdtemp(prefix="wd-"))
    one = Supervised(folder)
    yield one
    one.stop()
    shutil.rmtree(folder)


@contextmanager
def watchdog(host: Supervised) -> Iterator[Path]:
    """Run the watchdog with short patience; gives the file of its record."""
    host.run("status")  # writes the description
    record = host.folder / "watchdog.json"
    words = ["watchdog", "--config", str(host.folder / "host.json"), "--record", str(record)]
    words += ["--every", "1s", "--hang-after", "3s", "--start-after", "30s"]
    with (host.folder / "watchdog.log").open("wb") as log:
        process = subprocess.Popen([*LTXOPS, *words], stderr=log)
    try:
        until(record.exists)
        yield record
    finally:
        process.terminate()
        process.wait(60)


def until(true: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)


def pid(host: Supervised, name: str = "comfyui") -> int:
    return processes(host.socket, "user")[name].pid


def kinds(record: Path) -> list[str]:
    return [fault["kind"] for fault in json.loads(record.read_text())["faults"]]


def after_a_whole_turn(record: Path) -> None:
    """Wait until a turn has begun and ended: the record is written anew at the end of each."""
    written: set[int] = set()

    def twice_more() -> bool:
        written.add(record.stat().st_mtime_ns)
        return len(written) > 2

    until(twice_more)


def group_of(leader: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == leader and fields[0] != "Z":
            found.add(int(stat.parent.name))
    return found


def request(port: int, path: str) -> None:
    """Send a request, whose answer may never come."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())


@contextmanager
def little_memory(process: int) -> Iterator[None]:
    """Hold a process to 64 MiB more than it has, in a control group of its own, which needs root."""
    v1 = Path("/sys/fs/cgroup/memory")
    group = (v1 if v1.is_dir() else Path("/sys/fs/cgroup")) / f"watchdog-test-{process}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if v1.is_dir() else "memory.max")).write_text(str(64 * 2**20))
        (group / "cgroup.procs").write_text(str(process))
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"this machine lets nobody limit the memory of a process: {error}")
    try:
        yield
    finally:
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def started(host: Supervised, name: str = "comfyui") -> int:
    host.start()
    until(lambda: host.run("wait", "--timeout", "20")[0] == 0)
    return pid(host, name)


def test_a_program_that_hangs_is_restarted_with_all_its_processes(host: Supervised) -> None:  # R31 R34
    port = host.add("comfyui", WORKER, health=200, stopasgroup="true", killasgroup="true", stopwaitsecs=2)
    host.add("other", SERVER, 200, health=200)
    before = started(host)
    other = pid(host, "other")
    tree = group_of(before)
    assert len(tree) == 2
    with watchdog(host) as record:
        request(port, "/hang")
        until(lambda: pid(host) not in (before, 0))
        until(lambda: host.run("status")[0] == 0)
        until(lambda: not tree & group_of(before))
        assert kinds(record) == ["hang"]
        assert len(group_of(pid(host))) == 2
    assert pid(host, "other") == other
    assert "answers nobody" in (host.folder / "watchdog.log").read_text()


def test_a_stop_leaves_no_process_and_a_daemon_of_its_own_session_alone(host: Supervised) -> None:  # R31
    mark = host.folder.name
    daemon = WORKER.replace(
        "child])",
        f"child]); subprocess.Popen([sys.executable, '-c', child, '{mark}'], start_new_session=True)",
    )
    host.add("comfyui", daemon, health=200, stopasgroup="true", killasgroup="true", stopwaitsecs=2)
    host.add("other", SERVER, 200, health=200)
    before = started(host)
    tree = group_of(before)
    with watchdog(host):
        os.kill(before, signal.SIGKILL)
        until(lambda: pid(host) not in (before, 0))
        until(lambda: not tree & group_of(before))
        until(lambda: "had outlived comfyui" in (host.folder / "watchdog.log").read_text())
        # One of each process of comfyui.
        until(lambda: len(daemons(mark)) == 2)
    for one in daemons(mark):
        os.kill(one, signal.SIGKILL)


def daemons(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if entry.read_bytes().endswith(f"\0{mark}\0".encode()):
                found.append(int(entry.parent.name))
    return found


def test_a_stopped_process_is_a_hang_too(host: Supervised) -> None:  # R34
    host.add("comfyui", WORKER, health=200, stopasgroup="true", killasgroup="true", stopwaitsecs=2)
    before = started(host)
    with watchdog(host) as record:
        os.kill(before, signal.SIGSTOP)
        until(lambda: pid(host) not in (before, 0))
        assert kinds(record) == ["hang"]


def test_a_program_that_answers_anything_is_left_alone(host: Supervised) -> None:
    host.add("comfyui", SERVER, 503, health=200)
    host.start()
    until(lambda: pid_or_none(host))
    before = pid(host)
    with watchdog(host) as record:
        time.sleep(6)
        assert kinds(record) == []
    assert pid(host) == before


def test_faults_of_the_gpu_are_counted_and_a_lost_one_ends_the_process(host: Supervised) -> None:  # R36
    port = host.add("comfyui", WORKER, health=200, stopasgroup="true", killasgroup="true", stopwaitsecs=2)
    before = started(host)
    with watchdog(host) as record:
        request(port, "/memory")
        until(lambda: kinds(record) == ["memory"])
        assert pid(host) == before
        request(port, "/cuda")
        until(lambda: pid(host) not in (before, 0))
        until(lambda: kinds(record) == ["memory", "cuda"])
        after_a_whole_turn(record)  # the watchdog has seen the new process
        os.kill(pid(host), signal.SIGKILL)
        until(lambda: kinds(record) == ["memory", "cuda", "restart"])
        totals = json.loads(record.read_text())["totals"]
    assert totals == {"comfyui memory": 1, "comfyui cuda": 1, "comfyui restart": 1}


def test_a_kill_by_the_kernel_for_lack_of_memory_is_counted_as_such(host: Supervised) -> None:  # R36
    port = host.add("comfyui", WORKER, health=200, stopasgroup="true", killasgroup="true", stopwaitsecs=2)
    host.add("other", SERVER, 200, health=200)
    before = started(host)
    with watchdog(host) as record:
        with little_memory(before):
            request(port, "/eat")
            until(lambda: pid(host) not in (before, 0))
        until(lambda: kinds(record) == ["memory"])
        detail = json.loads(record.read_text())["faults"][0]["detail"]
    assert detail.startswith("was killed by the kernel for lack of memory, and was started again, pid")


def test_a_supervisord_that_is_away_does_not_end_it(host: Supervised) -> None:
    host.add("comfyui", SERVER, 200, health=200)
    started(host)
    with watchdog(host):
        log = host.folder / "watchdog.log"
        host.stop()
        until(lambda: "supervisord is not running" in log.read_text())
        host.socket.unlink(missing_ok=True)
        host.start()
        until(lambda: pid_or_none(host))
        seen = log.read_text().count("supervisord is not running")
        time.sleep(3)
        assert log.read_text().count("supervisord is not running") <= seen + 1


def pid_or_none(host: Supervised) -> int:
    try:
        return pid(host)
    except CheckFailed:
        return 0
