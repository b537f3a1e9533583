"""A serverless worker: PyWorker under the demo's supervisord, with the platform's own package from PyPI.

The repository is a local one, laid out like PyWorker's, and the platform is a server of the test. The
package, its benchmark, its signatures, the wrapper and the embedded engine are real.
"""

import base64
import json
import os
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.error import HTTPError

import pytest
from tests.integration.demo_host import Demo, changed_tasks, free_ports, new_host
from tests.support import wait_for

from ltxops.generation import benchmark_workload

#: The worker as Vast configures it: fixed names of log and port, the benchmark file beside it.
WORKER = """
    import json
    import random
    from pathlib import Path

    from vastai import BenchmarkConfig, HandlerConfig, LogActionConfig, Worker, WorkerConfig

    def payload():
        workflow = json.loads((Path(__file__).parent / "misc" / "benchmark.json").read_text())
        name = f"test-{{random.randint(1000, 99999)}}"
        return {{"input": {{"request_id": name, "workflow_json": workflow}}}}

    generate = HandlerConfig(
        route="/generate/sync",
        allow_parallel_requests=False,
        max_queue_time=10.0,
        benchmark_config=BenchmarkConfig(generator=payload, runs=2),
    )
    signals = LogActionConfig(
        on_load=["BACKENDS_READY"],
        on_error=["BACKENDS_READY_TIMEOUT", "BACKEND_UNRECOVERABLE", "Application startup failed"],
    )
    config = WorkerConfig(
        model_server_url="http://127.0.0.1",
        model_server_port={port},
        model_log_file={log!r},
        model_healthcheck_url="/health",
        handlers=[generate],
        log_action_config=signals,
    )
    Worker(config).run()
"""
MARK = "secret-8f1c2a"
MASTER_TOKEN = f"m%(x)s;# \"quoted\" 'single' $HOME `id` back\\slash {MARK}"


@dataclass
class Platform:
    """Stands where Vast's serverless platform would: gives its public key, takes the workers' reports."""

    key: Path
    reports: list[dict[str, Any]] = field(default_factory=list)

    def serve(self) -> ThreadingHTTPServer:
        platform = self
        public = subprocess.run(
            ["openssl", "pkey", "-in", self.key, "-pubout"], capture_output=True, check=True
        ).stdout

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(public if self.path == "/pubkey/" else b"")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/worker_status/":
                    platform.reports.append(json.loads(body))
                self.answer(b"{}")

            def answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def sign(self, url: str) -> dict[str, Any]:
        """What a client gets from the platform: where to go, and proof that the platform said so."""
        message = json.dumps({"url": url}, indent=4, sort_keys=True)
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.key],
            input=message.encode(),
            capture_output=True,
            check=True,
        ).stdout
        return {
            "cost": "100",
            "endpoint": "ltx",
            "reqnum": 1,
            "request_idx": 1,
            "url": url,
            "signature": base64.b64encode(signature).decode(),
        }


@dataclass
class Worker:
    """A demo host that is a worker, and the platform that it belongs to."""

    host: Demo
    platform: Platform
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def wrapper_url(self) -> str:
        return f"http://127.0.0.1:{self.host.ports['wrapper_port']}"

    @property
    def tree(self) -> Path:
        return self.host.folder / "workspace/vast-pyworker"

    @property
    def log(self) -> str:
        return (self.host.folder / "workspace/logs/pyworker.log").read_text()

    def command_lines(self) -> list[bytes]:
        found = []
        for pid in self.host.processes():
            with suppress(OSError):
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes())
        return found

    def watches_the_wrapper(self) -> bool:
        """Tell whether `tail` has come to the end of the wrapper's log, and will see what comes now."""
        log = self.host.folder / "workspace/logs/wrapper.log"
        for pid in self.host.processes():
            process = Path(f"/proc/{pid}")
            with suppress(OSError):
                if (process / "comm").read_text() == "tail\n":
                    for link in (process / "fd").iterdir():
                        info = process / "fdinfo" / link.name
                        if link.readlink() == log and not info.read_text().startswith("pos:\t0\n"):
                            return True
        return False

    def signals(self) -> list[str]:
        return (self.host.folder / "state/pyworker/signals.log").read_text().splitlines()

    def ask(self, auth: dict[str, Any], graph: Any, **fields: Any) -> tuple[int, Any]:
        body = {"auth_data": auth, "payload": {"input": {"workflow_json": graph, **fields}}}
        request = urllib.request.Request(
            f"{self.url}/generate/sync", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            with error:
                return error.code, None

    def jobs(self) -> list[dict[str, Any]]:
        """The workflows that the engine has run, oldest first."""
        url = f"http://127.0.0.1:{self.host.ports['comfyui_port']}/history"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return [entry["prompt"][2] for entry in json.load(answer).values()]


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@example.invalid", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("pw")
    host = new_host(folder / "host")
    portal_log = host.folder / "workspace/logs/portal/api-wrapper.log"
    repository = folder / "repository"
    (repository / "workers/comfyui-json/misc").mkdir(parents=True)
    (repository / "requirements.txt").write_text("vastai==1.9.1\n")
    source = dedent(WORKER).format(port=host.ports["wrapper_port"], log=str(portal_log))
    (repository / "workers/comfyui-json/worker.py").write_text(source)
    git(repository, "init", "--quiet")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "A worker")
    key = folder / "platform.key"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], capture_output=True, check=True)
    platform, port = Platform(key), free_ports(2)[0]
    server = platform.serve()
    host.settings = {
        "smoke_cases": ["check"],
        "pyworker_enabled": True,
        "pyworker_repo": str(repository),
        "pyworker_version": git(repository, "rev-parse", "HEAD"),
        "pyworker_port": port,
        "pyworker_report_address": f"http://127.0.0.1:{server.server_port}",
        "pyworker_environment": {
            "CONTAINER_ID": 4711,
            "PUBLIC_IPADDR": "192.0.2.7",
            f"VAST_TCP_PORT_{port}": "40123",
            "MASTER_TOKEN": MASTER_TOKEN,
        },
    }
    host.first = host.run("-vvv", "--diff")
    yield Worker(host, platform, port)
    assert host.script("--down").returncode == 0
    assert wait_for(lambda: not host.processes())
    server.shutdown()
    server.server_close()


def test_the_worker_is_installed_beside_our_own_environment(worker: Worker) -> None:
    first = worker.host.first
    assert first
    assert first.returncode == 0, first.stdout[-3000:]
    python = worker.host.folder / "workspace/worker-env/bin/python"
    wanted = "import vastai, cryptography, PIL; from importlib.metadata import version; "
    shown = subprocess.run(
        [python, "-c", wanted + "print(version('vastai'), version('cryptography'), version('pillow'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == ["1.9.1", "49.0.0", "12.2.0"]
    assert worker.host.services("status").returncode == 0


def test_the_worker_measures_our_workflow_and_reports_the_score(worker: Worker) -> None:
    report = wait_for(lambda: next((r for r in reversed(worker.platform.reports) if r["max_perf"]), None))
    assert report["error_msg"] == ""
    assert report["id"] == 4711
    assert report["mtoken"] == MASTER_TOKEN
    assert report["url"] == "http://192.0.2.7:40123"
    assert worker.signals() == ["BACKENDS_READY"], "what it began its benchmark at"
    # Every run of the benchmark was a job of the wrapper, under the id that the worker gave it.
    with urllib.request.urlopen(f"{worker.wrapper_url}/metrics", timeout=10) as answer:
        assert b'ltxops_jobs_total{status="completed"} 3.0' in answer.read()
    # The score is kept where the package looks for it, in a file that its user may write.
    kept = worker.tree / ".has_benchmark"
    assert float(kept.read_text()) == report["max_perf"]
    assert kept.resolve().parent == worker.host.folder / "state/pyworker"
    # A warm-up and two runs of the workflow that `ltxops benchmark` measures, each with a seed of its own.
    graph = benchmark_workload.load("two-stage").graph
    first, *measured = worker.jobs()
    seeds = [job["50"]["inputs"]["noise_seed"] for job in measured]
    assert len(set(seeds)) == len(seeds) == 3
    assert measured == [benchmark_workload.with_seed(graph, seed) for seed in seeds]
    # The smoke generation came first: the worker began when the host was proven.
    assert first["13"]["inputs"]["filename_prefix"].startswith("video/smoke-check")
    assert "waiting until this host has passed its provisioning" in worker.log


def test_the_workflow_lies_where_the_worker_looks_for_it(worker: Worker) -> None:
    beside = worker.tree / "workers/comfyui-json/misc/benchmark.json"
    outside = worker.host.folder / "home/comfyui-api-wrapper/workflows/pyworker_benchmark.json"
    assert beside.read_bytes() == outside.read_bytes()
    assert json.loads(beside.read_text()) == benchmark_workload.load("two-stage").graph


def test_a_signed_request_comes_through_and_a_forged_one_does_not(worker: Worker) -> None:
    graph = json.loads((Path(__file__).parents[2] / "workflows/check.json").read_text())
    auth = worker.platform.sign("http://192.0.2.7:40123")
    webhook = {"url": "", "extra_params": {"user_id": "12345"}}
    status, envelope = worker.ask(auth, graph, request_id="forwarded", s3={"region": ""}, webhook=webhook)
    assert (status, envelope["status"], envelope["id"]) == (200, "completed", "forwarded")
    assert Path(envelope["output"][0]["local_path"]).is_file()
    with urllib.request.urlopen(f"{worker.wrapper_url}/result/forwarded", timeout=10) as answer:
        assert json.load(answer) == envelope, "as the wrapper has it, not changed on its way"
    assert worker.ask({**auth, "url": "http://192.0.2.8:1"}, graph)[0] == 401


def test_secrets_reach_the_worker_alone_and_exactly(worker: Worker) -> None:  # R29, R30
    host = worker.host
    pid = host.pids()["pyworker"]
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert f"MASTER_TOKEN={MASTER_TOKEN}".encode() in environment
    file = host.folder / "etc/pyworker.env"
    assert file.stat().st_mode & 0o777 == 0o600
    assert host.first
    assert "TASK [pyworker : Place PyWorker's environment]" in host.first.stdout
    assert MARK not in host.first.stdout + host.first.stderr
    sources = [*(host.folder / "etc").rglob("*.conf"), *(host.folder / "workspace/logs").rglob("*.log")]
    sources += [host.folder / "etc/host.json", host.folder / "home/bin/pyworker.sh"]
    for path in sources:
        assert MARK not in path.read_text(), path
    assert MARK.encode() not in b"".join(worker.command_lines())
    for name in ("comfyui", "wrapper", "gateway"):
        assert b"MASTER_TOKEN" not in Path(f"/proc/{host.pids()[name]}/environ").read_bytes()


def test_a_second_run_changes_nothing_and_leaves_the_worker_alone(worker: Worker) -> None:  # R47
    before = worker.host.pids()
    again = worker.host.run()
    assert (again.returncode, changed_tasks(again.stdout)) == (0, 0), again.stdout[-3000:]
    assert worker.host.pids() == before


def test_a_restarted_worker_believes_no_line_of_an_earlier_run(worker: Worker) -> None:  # R62
    log = worker.host.folder / "workspace/logs/wrapper.log"
    with log.open("a") as file:
        file.write("Application startup failed: said by an earlier run\n")
    runs = len(worker.jobs())
    worker.host.supervisorctl("stop", "pyworker")
    worker.platform.reports.clear()
    worker.host.supervisorctl("start", "pyworker")
    wait_for(lambda: any(report["max_perf"] for report in worker.platform.reports))
    assert worker.signals() == ["BACKENDS_READY"]
    assert not any(report["error_msg"] for report in worker.platform.reports)
    # The score was kept: nothing was measured again.
    assert len(worker.jobs()) == runs


def test_a_fault_of_the_wrapper_puts_the_worker_in_error(worker: Worker) -> None:  # R62
    wait_for(worker.watches_the_wrapper)
    with (worker.host.folder / "workspace/logs/wrapper.log").open("a") as file:
        file.write("2026-01-01 INFO a prompt about BACKEND_UNRECOVERABLE things\n")
        file.write("BACKEND_UNRECOVERABLE: CUDA error\n")
    wait_for(
        lambda: any("BACKEND_UNRECOVERABLE" in report["error_msg"] for report in worker.platform.reports)
    )
    assert worker.signals() == ["BACKENDS_READY", "BACKEND_UNRECOVERABLE: CUDA error"]


def test_the_watchers_end_with_the_worker(worker: Worker) -> None:  # R31
    def of_the_worker() -> int:
        return sum(
            b"signals.log" in content or b"wrapper.log" in content or b"workers.comfyui-json" in content
            for content in worker.command_lines()
        )

    assert of_the_worker() >= 2
    before = worker.host.pids()["pyworker"]
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: worker.host.pids()["pyworker"] not in (before, 0))
    wait_for(lambda: of_the_worker() >= 2)
    worker.host.supervisorctl("stop", "pyworker")
    wait_for(lambda: of_the_worker() == 0)


def test_switched_off_it_leaves_no_program_and_no_secret(worker: Worker) -> None:
    off = worker.host.run(pyworker_enabled=False)
    assert off.returncode == 0, off.stdout[-3000:]
    assert "pyworker" not in worker.host.pids()
    assert "pyworker" not in worker.host.supervisorctl("status")
    assert not (worker.host.folder / "etc/pyworker.env").exists()
