"""One wrapper and stand-in ComfyUIs for the tests of the wrapper: real processes, loopback ports."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.support import free_port as free_port
from tests.support import wait_for as wait_for

LTXOPS = [sys.executable, "-m", "ltxops.cli.main"]
SIGNAL = "BACKENDS_READY"


def call(url: str, body: object = None, *, raw: bytes | None = None) -> tuple[int, dict[str, str], Any]:
    """Return status, headers (lower case) and JSON of an answer, whatever its status."""
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"})
    try:
        response = urlopen(request, timeout=60)
    except HTTPError as error:
        response = error
    with response:
        text = response.read()
        headers = {name.lower(): value for name, value in response.headers.items()}
        return response.status, headers, json.loads(text) if text[:1] in b"{[" and text else None


class Process:
    """A command of this project in the background, its output in two files."""

    def __init__(self, folder: Path, name: str, *args: object, **environment: str) -> None:
        self.stdout, self.stderr = folder / f"{name}.out", folder / f"{name}.err"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("S3_")}
        with self.stdout.open("ab") as out, self.stderr.open("ab") as err:
            self.process = subprocess.Popen(
                [*LTXOPS, *map(str, args)],
                stdout=out,
                stderr=err,
                env={**inherited, **environment},
            )

    def text(self) -> str:
        """Return everything it has printed."""
        return self.stdout.read_text() + self.stderr.read_text()

    def wait_until_it_answers(self, url: str) -> None:
        """Wait for any answer, and no longer than the process lives."""
        wait_for(lambda: self.process.poll() is not None or call(url)[0], 180, told=self.text)
        assert self.process.poll() is None, self.text()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


class Host:
    """One stand-in ComfyUI and one wrapper, each started when a test says so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base, self.output, self.state = folder / "comfy", folder / "comfy/output", folder / "state"
        self.output.mkdir(parents=True)
        self.engine_port, self.port = free_port(), free_port()
        self.engine_url = f"http://127.0.0.1:{self.engine_port}"
        self.backends = [self.engine_url]
        self.url = f"http://127.0.0.1:{self.port}"
        self.running: list[Process] = []

    def start_engine(self, url: str = "") -> Process:
        """Start the stand-in ComfyUI and wait until it answers."""
        url = url or self.engine_url
        engine = self._start(
            f"engine-{url[-5:]}",
            *("embedded", "comfyui", "--listen", "127.0.0.1", "--port", url.rsplit(":", 1)[1]),
            *("--base-directory", self.base),
        )
        engine.wait_until_it_answers(f"{url}/system_stats")
        return engine

    def add_backend(self) -> str:
        """Have one more ComfyUI, which writes to the same folders; returns its URL."""
        self.backends.append(f"http://127.0.0.1:{free_port()}")
        return self.backends[-1]

    def start_wrapper(self, *options: object, **environment: str) -> Process:
        """Start the wrapper and wait until it answers."""
        wrapper = self._start(
            "wrapper",
            *("wrapper", "serve", "--port", self.port, "--backend", ",".join(self.backends)),
            *("--output-directory", self.output, "--state", self.state, *options),
            **environment,
        )
        wrapper.wait_until_it_answers(f"{self.url}/health")
        return wrapper

    def start_both(self, *options: object) -> None:
        """Start the stand-in ComfyUI and the wrapper, and wait until jobs can come."""
        self.start_engine()
        wrapper = self.start_wrapper(*options)
        health = f"{self.url}/health"
        wait_for(lambda: call(health)[0] == 200, told=lambda: f"{call(health)}\n{wrapper.text()}")

    def _start(self, name: str, *args: object, **environment: str) -> Process:
        process = Process(self.folder, name, *args, **environment)
        self.running.append(process)
        return process

    def generate(self, graph: object, **fields: object) -> tuple[int, dict[str, str], Any]:
        """Ask for a job and wait for its answer."""
        return call(f"{self.url}/generate/sync", {"input": {"workflow_json": graph, **fields}})

    def submit(self, graph: object, **fields: object) -> tuple[int, Any]:
        """Ask for a job and do not wait for its end."""
        status, _, answer = call(f"{self.url}/generate", {"input": {"workflow_json": graph, **fields}})
        return status, answer

    def ended(self, job_id: str, seconds: float = 120.0) -> Any:
        """Return the envelope of a job once it has ended."""

        def ask() -> Any:
            envelope = self.result(job_id)[1]
            return envelope if envelope["status"] in ("completed", "failed", "cancelled") else None

        return wait_for(ask, seconds)

    def cancel(self, job_id: str) -> Any:
        """Cancel a job and return its envelope; asked again where the answer came before the end."""

        def ask() -> Any:
            status, _, envelope = call(f"{self.url}/cancel/{job_id}", {})
            assert status == 200, envelope
            return envelope if envelope["status"] == "cancelled" else None

        return wait_for(ask)

    def result(self, job_id: str) -> tuple[int, Any]:
        """Return status and envelope of a job."""
        status, _, envelope = call(f"{self.url}/result/{job_id}")
        return status, envelope

    def running_prompt(self, url: str = "") -> str:
        """Return the prompt id that ComfyUI works on, once it works on one."""
        queue = wait_for(lambda: call(f"{url or self.engine_url}/queue")[2]["queue_running"])
        return str(queue[0][1])

    def close(self) -> None:
        """End what still runs."""
        for process in reversed(self.running):
            process.end(signal.SIGKILL)


def graph(frames: int = 9, prefix: str = "video/check", size: int = 64) -> dict[str, Any]:
    """Return a workflow that needs no weights. The noise is not connected: it only carries a seed."""
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": size, "height": size, "batch_size": frames, "color": 255},
        },
        "2": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 24}},
        "3": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["2", 0], "filename_prefix": prefix, "format": "mp4", "codec": "auto"},
        },
        "4": {"class_type": "RandomNoise", "inputs": {"noise_seed": "__RANDOM_INT__"}},
    }


#: Takes longer than any test waits; tests interrupt it or kill what runs it.
LONG = graph(4000, "video/long", 2048)


def occupy(url: str) -> str:
    """Have the ComfyUI at `url` run another client's long job, behind which ours wait in its queue.

    Returns its prompt id once it runs. POST /interrupt ends it.
    """
    foreign = {node: value for node, value in LONG.items() if node != "4"}
    prompt_id = str(call(f"{url}/prompt", {"prompt": foreign})[2]["prompt_id"])
    wait_for(lambda: prompt_id in [entry[1] for entry in call(f"{url}/queue")[2]["queue_running"]])
    return prompt_id


def waiting_prompt(url: str) -> str:
    """Return the prompt id that waits in the queue of the ComfyUI at `url`, once one does."""
    queue = wait_for(lambda: call(f"{url}/queue")[2]["queue_pending"])
    return str(queue[0][1])
