"""The import gate: does an installed ComfyUI, with its custom nodes, register the classes our workflows use,
and does it generate?

A custom node whose import fails costs ComfyUI one line in its log and nothing else; the first to notice would
be a customer's job. So ComfyUI is started once, without a GPU and away from its own files, and is asked.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from ltxops.errors import BadInput, CheckFailed
from ltxops.generation import report, smoke, workflows
from ltxops.generation.proof import Settings

_TAIL_LINES = 15
_POLL_SECONDS = 0.25
_STOP_SECONDS = 5.0
#: What ComfyUI reads below its base folder; the host's output, input, user and temp folders stay untouched.
_LINKED = ("custom_nodes", "models")


@dataclass(frozen=True)
class Registration:
    """What a ComfyUI was found to register: the classes it lacks, and what it said of imports that failed."""

    needed: int
    missing: list[str]
    failed_imports: list[str]

    @property
    def complaint(self) -> str | None:
        """One sentence about what is lacking and why; None when nothing is."""
        if not self.missing:
            return None
        lacking = f"ComfyUI lacks the node classes {', '.join(self.missing)}"
        if not self.failed_imports:
            return f"{lacking}; install the custom nodes that bring them, or another version of ComfyUI"
        return f"{lacking}; imports failed: {'; '.join(self.failed_imports)}"


def check_engine(
    python: Path, main: Path, base_directory: Path | None, timeout_seconds: float, *, generate: bool = False
) -> Registration:
    """Start ComfyUI's `main` with `python` and hold what it registers against what our workflows use.

    `base_directory` holds its custom_nodes and models; None: the folder of `main`. With `generate`, and where
    no class is missing, it also runs the smoke case that needs no weights. Whatever was started is stopped
    again, children included. Raises BadInput when a path is wrong, CheckFailed when ComfyUI ends, does not
    answer within `timeout_seconds`, or does not generate, with the last lines that it printed.
    """
    base = base_directory if base_directory is not None else main.parent
    for path, is_there in ((python, python.is_file()), (main, main.is_file()), (base, base.is_dir())):
        if not is_there:
            raise BadInput(f"{path} does not exist; give the Python and the main.py of a ComfyUI checkout")
    with tempfile.TemporaryDirectory(prefix="ltxops-gate-") as name:
        sandbox = Path(name)
        for folder in _LINKED:
            if (base / folder).is_dir():
                (sandbox / folder).symlink_to((base / folder).resolve())
        port, log = _free_port(), sandbox / "comfyui.log"
        # Not resolved: a virtual environment's python is a link, and is itself only under its own name.
        command = [str(python.absolute()), str(main.resolve()), "--cpu", "--listen", "127.0.0.1"]
        command += ["--port", str(port), "--disable-auto-launch", "--base-directory", str(sandbox)]
        with _running(command, main.resolve().parent, log) as process:
            info = _wait_for_info(process, port, log, timeout_seconds)
            missing = [name for name in workflows.required_classes() if name not in info]
            if generate and not missing:
                _generate(port, sandbox / "proof", log, timeout_seconds)
        printed = log.read_text(errors="replace").splitlines()
    return Registration(
        needed=len(workflows.required_classes()),
        missing=missing,
        # ComfyUI's own words for a file of nodes that it could not import (nodes.py of 0.3 to 0.28).
        failed_imports=[line.strip() for line in printed if line.startswith("Cannot import ")],
    )


@contextlib.contextmanager
def _running(command: list[str], folder: Path, log: Path) -> "Iterator[subprocess.Popen[bytes]]":
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield process
    finally:
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        # Children that outlived their parent are still of its group.
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _wait_for_info(
    process: "subprocess.Popen[bytes]", port: int, log: Path, timeout_seconds: float
) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_seconds
    opener = build_opener(ProxyHandler({}))
    url = f"http://127.0.0.1:{port}/object_info"
    while True:
        left = deadline - time.monotonic()
        code = process.poll()
        if code is not None or left <= 0:
            ended = (
                f"ended with code {code}" if code is not None else f"did not answer in {timeout_seconds:g} s"
            )
            raise CheckFailed(
                f"ComfyUI {ended} when it was started to list its nodes; it printed:\n{_last(log)}"
            )
        with contextlib.suppress(URLError, OSError, ValueError), opener.open(url, timeout=left) as answer:
            info = json.load(answer)
            if isinstance(info, dict):
                return info
        time.sleep(_POLL_SECONDS)


def _generate(port: int, folder: Path, log: Path, timeout_seconds: float) -> None:
    settings = Settings(
        url=f"http://127.0.0.1:{port}",
        out=folder,
        token=None,
        deadline_seconds=timeout_seconds,
        values={},
        logs={},
    )
    case = smoke.run(settings, ["check"], lambda event: None)
    if not case["ok"]:
        raise CheckFailed(f"ComfyUI does not generate ({case['error']}); it printed:\n{_last(log)}")


def _last(log: Path) -> str:
    return "\n".join(f"  {line}" for line in report.tail(log, _TAIL_LINES))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _signal_group(process: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
