"""How fast hosts are provisioned, beside how long their downloads and their installs take alone.

    sudo .venv/bin/python -m benchmarks.provision [--markdown FILE] [--json FILE]

Bare hosts (sshd and Python only) in namespaces of this machine are provisioned over SSH with sudo, from a hub
and a CDN on this machine that is paced so that a download takes longer than the installs. One host installs
torch and more as a GPU host does; eight at once would not fit, and have the embedded engine alone. Prints
every bar with pass or MISSED; exit 1 when one was missed. Needs root, debootstrap, and the network for
packages.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.integration.test_onstart import checked_out
from tests.support import free_port

from benchmarks import servers
from benchmarks.bars import Bar
from benchmarks.cdn import Behaviour
from benchmarks.provision_hosts import (
    EMBEDDED,
    bare_hosts,
    engine_sources,
    inventory,
    manifest_with_ballast,
    provision,
)
from ltxops.embedded.hub import write_missing
from ltxops.models import manifest

MOST_OF_THE_LONGER, SECOND_SECONDS, ONSTART_SECONDS, MOST_OF_A_ROW = 1.2, 15.0, 3.0, 0.6
#: Bytes of what takes long to download, and so many times as long as the installs, by the speed of the line.
BALLAST_BYTES, DOWNLOAD_TO_INSTALLS = 128 * 2**20, 1.1
TOGETHER = 8


@dataclass
class Found:
    """What was measured, in seconds, with the longest tasks of a run that changed nothing."""

    installs: float = 0.0
    download: float = 0.0
    bare: float = 0.0
    second: float = 0.0
    second_changed: int = 0
    onstart: list[float] = field(default_factory=list)
    one: float = 0.0
    together: float = 0.0
    longest: list[str] = field(default_factory=list)
    load_before: float = 0.0
    cpus: int = 0


def judge(found: Found) -> list[Bar]:
    """Hold what was measured against every bar."""
    longer = max(found.download, found.installs)
    ratio, row = found.bare / longer, found.together / (TOGETHER * found.one)
    onstart = min(found.onstart)
    return [
        Bar(
            "the download takes at least as long as the installs",
            f"{found.download:.1f} s against {found.installs:.1f} s",
            found.download >= found.installs,
        ),
        Bar(
            f"bare host to a passed smoke: at most {MOST_OF_THE_LONGER:g} x the longer of the two",
            f"{ratio:.2f} x ({found.bare:.1f} s)",
            ratio <= MOST_OF_THE_LONGER,
        ),
        Bar(
            f"second run over SSH: at most {SECOND_SECONDS:g} s, nothing changed",
            f"{found.second:.1f} s, changed={found.second_changed}",
            found.second <= SECOND_SECONDS and found.second_changed == 0,
        ),
        Bar(
            f"scripts/onstart.sh with nothing to do: at most {ONSTART_SECONDS:g} s",
            f"{onstart:.2f} s",
            onstart <= ONSTART_SECONDS,
        ),
        Bar(
            f"{TOGETHER} hosts at once: at most {MOST_OF_A_ROW:g} x {TOGETHER} times one",
            f"{row:.2f} x ({found.together:.1f} s; one {found.one:.1f} s)",
            row <= MOST_OF_A_ROW,
        ),
    ]


@contextmanager
def hub_of(folder: Path, listed: Path, root: Path, line: int) -> Iterator[str]:
    """Run a hub and its CDN, which sends `line` bytes a second in all; 0 is no limit."""
    log = folder / "servers.log"
    port = free_port()
    with (
        servers.cdn(root, port, Behaviour(line_bytes=line), log),
        servers.hub(listed, root, port, log) as url,
    ):
        yield url


def download_alone(listed: Path, url: str, folder: Path) -> float:
    """Return how long the weights take to be fetched with nothing beside them."""
    command = [sys.executable, "-m", "ltxops.cli.main", "models", "sync", "--manifest", str(listed)]
    begin = time.monotonic()
    subprocess.run(
        [*command, "--profile", "benchmark", "--root", str(folder), "--hub", url],
        check=True,
        capture_output=True,
    )
    return time.monotonic() - begin


def onstart_again(folder: Path, url: str) -> list[float]:
    """Provision a container by its own script; return how long each of three more starts takes."""
    with checked_out(folder, url) as container:
        first = container.start()
        if first.returncode:
            raise SystemExit(f"scripts/onstart.sh failed:\n{first.stdout[-3000:]}")
        taken = []
        for _ in range(3):
            begin = time.monotonic()
            again = container.start()
            taken.append(time.monotonic() - begin)
            if "nothing to do" not in again.stdout:
                raise SystemExit(f"scripts/onstart.sh found something to do:\n{again.stdout[-3000:]}")
        return taken


def fresh(folder: Path, listed: Path, url: str, engine: dict[str, Any]) -> float:
    """Return how long a bare host takes to a passed smoke generation."""
    with bare_hosts(folder, 1) as hosts:
        return provision(inventory(folder, hosts, [url]), listed, engine).seconds


def line_for(installs: float) -> int:
    """Return the speed of a line, in bytes a second, on which the download takes a little longer."""
    return int(BALLAST_BYTES / (DOWNLOAD_TO_INSTALLS * installs))


def measure_one(folder: Path, listed: Path, root: Path, found: Found) -> None:
    """Provision one host with all that a GPU host installs, and provision it again."""
    with engine_sources(folder / "sources") as engine:
        with hub_of(folder, listed, root, 0) as url:
            found.installs = fresh(folder / "installs", listed, url, engine)
        with hub_of(folder, listed, root, line_for(found.installs)) as url:
            found.download = download_alone(listed, url, folder / "alone")
            with bare_hosts(folder / "bare", 1) as hosts:
                file = inventory(folder / "bare", hosts, [url])
                found.bare = provision(file, listed, engine).seconds
                again = min((provision(file, listed, engine) for _ in range(3)), key=lambda run: run.seconds)
    found.second, found.second_changed, found.longest = again.seconds, again.changed, again.longest


def measure_many(folder: Path, listed: Path, root: Path, found: Found) -> None:
    """Provision one host with the embedded engine, and so many at once."""
    with hub_of(folder, listed, root, 0) as url:
        line = line_for(fresh(folder / "small", listed, url, EMBEDDED))
        (folder / "onstart").mkdir()
        found.onstart = onstart_again(folder / "onstart", url)
    with hub_of(folder, listed, root, line) as url:
        found.one = fresh(folder / "one", listed, url, EMBEDDED)
    # Each host has a line of its own, as hosts in different places have.
    with ExitStack() as stack:
        urls = [stack.enter_context(hub_of(folder, listed, root, line)) for _ in range(TOGETHER)]
        hosts = stack.enter_context(bare_hosts(folder / "many", TOGETHER))
        found.together = provision(inventory(folder / "many", hosts, urls), listed, EMBEDDED).seconds


def measure(folder: Path) -> Found:
    """Run everything."""
    found = Found(load_before=os.getloadavg()[0], cpus=os.cpu_count() or 1)
    root = folder / "hub"
    listed = manifest_with_ballast(folder, root, BALLAST_BYTES)
    write_missing(manifest.load(listed), root)
    measure_one(folder, listed, root, found)
    measure_many(folder, listed, root, found)
    return found


def as_markdown(found: Found, bars: Sequence[Bar]) -> str:
    """Return the bars as a table, with what they were measured on and the longest tasks of a second run."""
    rows = [f"| {bar.text} | {bar.found} | {bar.word} |" for bar in bars]
    return "\n".join(
        [
            f"{found.cpus} CPUs, load {found.load_before:.1f} before it began.",
            "",
            "| bar | found | verdict |",
            "|---|---|---|",
            *rows,
            "",
            "The longest tasks of the second run:",
            "",
            "```",
            *found.longest,
            "```",
            "",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return 0 when every bar held, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.provision",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the bars as Markdown, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON, too")
    args = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("benchmarks.provision: hosts in namespaces need root", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="ltxops-benchmark-") as folder:
        found = measure(Path(folder))
    bars = judge(found)
    print(as_markdown(found, bars))
    for bar in bars:
        print(f"{bar.word:6} {bar.text}: {bar.found}")
    if args.markdown:
        args.markdown.write_text(as_markdown(found, bars))
    if args.json:
        rows = [{"bar": bar.text, "found": bar.found, "verdict": bar.word} for bar in bars]
        args.json.write_text(json.dumps(asdict(found) | {"bars": rows}, indent=1) + "\n")
    return int(not all(bar.held for bar in bars))


if __name__ == "__main__":
    sys.exit(main())
