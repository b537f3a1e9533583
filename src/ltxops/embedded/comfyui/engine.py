"""The engine itself: queue, sockets and the one thread that runs jobs."""

import logging
import platform
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import av

from ltxops.embedded.comfyui.catalog import Catalog, catalog, upload_checks
from ltxops.embedded.comfyui.executor import Executor
from ltxops.embedded.comfyui.jobs import Job, JobQueue, Outcome
from ltxops.embedded.comfyui.options import Options
from ltxops.embedded.comfyui.reporter import Reporter
from ltxops.embedded.comfyui.sockets import Sockets
from ltxops.embedded.comfyui.validate import MutableGraph, Verdict, validate

LOG = logging.getLogger("ltxops.embedded")
DEVICE = "embedded engine (no GPU)"
#: The release that the contract was recorded from.
COMFYUI_VERSION = "0.27.0"


class Engine:
    """Everything behind the API. Make one inside a running event loop, `start` it, `stop` it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.queue = JobQueue()
        self.sockets = Sockets(options.features)
        self._executor = Executor(options.folders, options.seconds_per_step)
        self._forget = threading.Event()
        self._reporter: Reporter | None = None
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)

    def start(self) -> None:
        """Start running jobs."""
        self.options.folders.create()
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Interrupt what runs and wait for it to end, for so long."""
        self.queue.close()
        self._thread.join(timeout_seconds)

    def catalog(self) -> Catalog:
        """Return the node classes with the files that are on disk now."""
        return catalog(self.options.folders)

    def validate(self, graph: MutableGraph) -> Verdict:
        """Check a graph against them."""
        return validate(graph, self.catalog(), upload_checks(self.options.folders))

    def submit(self, job: Job) -> None:
        """Queue a job."""
        LOG.info("got prompt")
        self.queue.put(job, self.tell_status)

    def free(self) -> None:
        """Empty the cache before the next job."""
        self._forget.set()

    def status(self) -> dict[str, Any]:
        """Return how much there is to do, as `/prompt` and the sockets tell it."""
        return {"exec_info": {"queue_remaining": self.queue.remaining()}}

    def tell_status(self) -> None:
        """Tell everyone who is connected."""
        self.sockets.send("status", {"status": self.status()}, None)

    def running_node(self, client_id: str | None) -> str | None:
        """Return the node that runs now for a client that comes back in the middle of its job."""
        reporter = self._reporter
        return reporter.running if reporter and client_id and reporter.job.client_id == client_id else None

    def _work(self) -> None:
        while job := self.queue.take():
            self.tell_status()
            if self._forget.is_set():
                self._forget.clear()
                self._executor.forget()
            self._reporter = reporter = Reporter(job, self.sockets.send)
            begun = time.monotonic()
            outcome = self._executor.run(job, reporter)
            self._reporter = None
            self.queue.finish(job, outcome)
            LOG.info(summary(outcome, time.monotonic() - begun))
            self.tell_status()
            reporter.ended()

    def system_stats(self) -> dict[str, Any]:
        """Return what `/system_stats` says: the real one's shape, and that this is not one."""
        total, free = memory_bytes()
        return {
            "embedded": True,
            "system": {
                "os": sys.platform,
                "ram_total": total,
                "ram_free": free,
                "comfyui_version": COMFYUI_VERSION,
                "required_frontend_version": None,
                "installed_templates_version": None,
                "required_templates_version": None,
                "comfy_package_versions": [],
                "python_version": sys.version,
                "pytorch_version": f"none ({DEVICE}, PyAV {av.__version__}, {platform.machine()})",
                "embedded_python": False,
                "deploy_environment": DEVICE,
                "argv": list(self.options.argv),
            },
            "devices": [
                {
                    "name": DEVICE,
                    "type": "cpu",
                    "index": None,
                    "vram_total": total,
                    "vram_free": free,
                    "torch_vram_total": total,
                    "torch_vram_free": free,
                }
            ],
        }


def summary(outcome: Outcome, seconds: float) -> str:
    """Return a log line about a job that ended, with nothing in it that a client wrote."""
    kind, data = outcome.messages[-1]
    if kind == "execution_success":
        return f"Prompt executed in {seconds:.2f} seconds"
    reason = f": {data['exception_type']}" if kind == "execution_error" else ""
    return f"{kind} at {data['node_type']} after {seconds:.2f} seconds{reason}"


def memory_bytes() -> tuple[int, int]:
    """Return the machine's memory and how much of it is free, from /proc/meminfo; zeros without one."""
    found = {"MemTotal": 0, "MemAvailable": 0}
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = int(rest.split()[0]) * 1024
    return found["MemTotal"], found["MemAvailable"]


def now_ms() -> int:
    """Return the time in milliseconds, as job entries carry it."""
    return int(time.time() * 1000)
