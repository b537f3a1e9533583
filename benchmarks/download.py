"""How fast, and how surely, `ltxops models sync` fetches, beside what an operator would use instead.

    python -m benchmarks.download

Each client in turn fetches the same random files from a hub and a CDN on this machine into a fresh folder.
Both are stand-ins: figures are for comparison within one run, not a promise about any network.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from tests.support import free_port

from benchmarks import bars, plot, report, servers, tree
from benchmarks.clients import OURS, SHORT, Client, missing_tools
from benchmarks.results import Result
from benchmarks.scenarios import NAMES, Bench
from ltxops.errors import BadInput, CheckFailed, DiskFull, LtxopsError
from ltxops.units import format_bytes


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 when every bar that was measured held, else 1, or an error's exit code."""
    args = _parser().parse_args(argv)
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        clients = [SHORT[name] for name in args.clients]
        _require_tools(clients)
        _require_space(args.work, args.scale)
        with tempfile.TemporaryDirectory(dir=args.work, prefix="ltxops-benchmark-") as work:
            results, facts = _run(args, clients, Path(work), console)
        found = bars.judge(results)
        report.print_tables(results, found)
        _write(args, results, found, facts)
        return report.verdict(found)
    except LtxopsError as error:
        print(f"benchmarks.download: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.download",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scenarios", nargs="+", choices=NAMES, default=NAMES, help="default: all of them")
    parser.add_argument(
        "--clients", nargs="+", choices=SHORT, default=list(SHORT), help="default: all of them"
    )
    parser.add_argument(
        "--scale", type=_positive, default=1.0, metavar="X", help="size of the files, 1 is 4.26 GB"
    )
    parser.add_argument(
        "--repeat", type=int, default=3, metavar="N", help="runs a client without limit (default: 3)"
    )
    parser.add_argument(
        "--fault-seconds",
        type=_positive,
        default=90.0,
        metavar="S",
        help="how long a client may take to deal with a fault (default: 90)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()),
        metavar="DIR",
        help="where source and copies go (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the plot as SVG")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' must be a number above 0")
    return value


def _require_tools(clients: Sequence[Client]) -> None:
    if missing := missing_tools(clients):
        named = ", ".join(f"{tool} (`{command}`)" for tool, command in missing.items())
        raise BadInput(f"not installed: {named}; install them, or name with --clients those to compare")


def _require_space(work: Path, scale: float) -> None:
    if not work.is_dir():
        raise BadInput(f"--work {work} is not a folder")
    # The source, one client's copy, and as much again for one that keeps two.
    needed, free = round(3 * sum(tree.LARGE.values()) * scale), shutil.disk_usage(work).free
    if free < needed:
        raise DiskFull(
            f"{work} has {format_bytes(free)} free and {format_bytes(needed)} are needed; "
            "give another folder with --work or a smaller --scale"
        )


def _run(
    args: argparse.Namespace, clients: Sequence[Client], work: Path, console: Console
) -> tuple[list[Result], dict[str, Any]]:
    source, manifest, port = work / "source", work / "models.yaml", free_port()
    console.print(f"writing {sum(tree.LARGE.values()) * args.scale / 1e9:.2f} GB of random files to {source}")
    promises = tree.write_tree(source, args.scale)
    tree.write_manifest(manifest, promises)
    facts = report.facts(clients, args.scale, [promise.size for promise in promises.values()])
    with servers.hub(manifest, source, port, work / "hub.log") as hub:
        console.print(f"hub and CDN are stand-ins on this machine: {hub}")
        if any(client.name == OURS for client in clients):
            _lock(manifest, hub, work)
        bench = Bench(
            work=work,
            source=source,
            manifest=manifest,
            promises=promises,
            hub=hub,
            cdn_port=port,
            scale=args.scale,
            clients=clients,
            repeat=args.repeat,
            fault_seconds=args.fault_seconds,
            say=lambda result: console.print(_told(result)),
        )
        results = [result for name in args.scenarios for result in bench.run(name)]
    return results, facts


def _lock(manifest: Path, hub: str, work: Path) -> None:
    """Lock what the hub has, as an operator has done long before the weights are fetched."""
    command = [
        sys.executable,
        "-m",
        "ltxops.cli.main",
        "models",
        "lock",
        "--manifest",
        str(manifest),
        "--hub",
        hub,
    ]
    done = subprocess.run(
        command, env={**os.environ, "HOME": str(work)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CheckFailed(f"`ltxops models lock` ended with {done.returncode}: {done.stderr.strip()}")


def _told(result: Result) -> str:
    why = f"; {result.last_line}" if not result.right and result.last_line else ""
    return (
        f"{result.scenario:12} {result.client:22} {result.seconds:7.2f} s  CPU {result.cpu_seconds:6.2f} s  "
        f"{result.peak_bytes / 1e6:6.0f} MB  {result.verdict()}{why}"
    )


def _write(
    args: argparse.Namespace, results: Sequence[Result], found: Sequence[bars.Bar], facts: dict[str, Any]
) -> None:
    if args.json is not None:
        args.json.write_text(report.as_json(results, found, facts), encoding="utf-8")
    if args.markdown is not None:
        args.markdown.write_text(report.as_markdown(results, found, facts), encoding="utf-8")
    if args.plot is not None:
        args.plot.write_text(plot.as_svg(results), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
