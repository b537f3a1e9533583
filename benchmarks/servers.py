"""Starting the hub and the CDN as processes of their own, and stopping them."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.cdn import Behaviour
from ltxops.errors import CheckFailed

_CHECKOUT = Path(__file__).parents[1]


@contextlib.contextmanager
def hub(manifest: Path, root: Path, cdn_port: int, log: Path) -> Iterator[str]:
    """Run the embedded hub; give its URL. Raises CheckFailed."""
    arguments = [
        "--manifest",
        str(manifest),
        "--root",
        str(root),
        "--cdn-url",
        f"http://127.0.0.1:{cdn_port}",
    ]
    with _server("benchmarks.hub", arguments, log) as url:
        yield url


@contextlib.contextmanager
def cdn(root: Path, port: int, behaviour: Behaviour, log: Path) -> Iterator[str]:
    """Run the CDN with one behaviour; give its URL. Raises CheckFailed."""
    arguments = ["--root", str(root), "--port", str(port)]
    arguments += ["--pace-bytes", str(behaviour.pace_bytes), "--cut-bytes", str(behaviour.cut_bytes)]
    arguments += ["--line-bytes", str(behaviour.line_bytes)]
    arguments += ["--fault", behaviour.fault] if behaviour.fault else []
    with _server("benchmarks.cdn", arguments, log) as url:
        yield url


@contextlib.contextmanager
def _server(module: str, arguments: list[str], log: Path) -> Iterator[str]:
    """Run a module that prints `NAME: URL` once it listens."""
    command = [sys.executable, "-m", module, *arguments]
    with (
        log.open("ab") as errors,
        subprocess.Popen(command, cwd=_CHECKOUT, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip().rpartition(" ")[2]
            if not url:
                raise CheckFailed(f"{module} did not start; the reason is in {log}")
            yield url
        finally:
            process.terminate()
