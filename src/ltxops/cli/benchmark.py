"""The command `benchmark`: how fast a host generates."""

import argparse
import json
from pathlib import Path
from typing import Any

from ltxops.cli.output import Subparsers, add_command, emit, log
from ltxops.cli.token import read_token
from ltxops.errors import BadInput


def register(nouns: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        nouns,
        "benchmark",
        run_benchmark,
        "measure how fast a host generates, and hold it against its own history",
        "ltxops benchmark --url http://127.0.0.1:8188 --token-file token --out benchmark",
    )
    parser.add_argument("--url", help="the gateway, or ComfyUI itself")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file that holds the gateway's token")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where report.json and history.jsonl go")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="runs to measure (default: 3)")
    parser.add_argument("--warmup", type=int, default=1, metavar="N", help="runs before those (default: 1)")
    parser.add_argument(
        "--workflow",
        default="two-stage",
        metavar="W",
        help="two-stage (the default), distilled, or a file in API format with __RANDOM_INT__ for the seed",
    )
    parser.add_argument(
        "--deadline",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="for one run (default: %(default)g)",
    )
    parser.add_argument(
        "--print-workflow",
        action="store_true",
        help="print the workflow as PyWorker's benchmark.json has it, and run nothing",
    )
    parser.add_argument(
        "--events", action="store_true", help="with --json: JSON lines on stdout as things happen, too"
    )


def run_benchmark(args: argparse.Namespace) -> int:
    """Run the benchmark; the report is printed whether it succeeds or not."""
    from ltxops.generation import benchmark, benchmark_workload
    from ltxops.generation.display import listening

    workload = benchmark_workload.load(args.workflow)
    if args.print_workflow:
        emit(args, workload.graph, json.dumps(workload.graph, indent=2))
        return 0
    if args.url is None or args.out is None:
        raise BadInput("--url and --out are needed: which host to measure, and where the report goes")
    settings = benchmark.Settings(
        url=args.url,
        out=args.out,
        workload=workload,
        token=read_token(args.token_file) if args.token_file else None,
        runs=args.runs,
        warmup=args.warmup,
        deadline_seconds=args.deadline,
    )
    args.json = args.json or args.events
    with listening(args.events) as tell:
        result = benchmark.run(settings, tell)
    if not result["ok"]:
        log(f"ltxops: benchmark failed at {result['error']}")
    for warning in result["warnings"]:
        log(f"ltxops: warning: {warning}")
    emit(args, result, _summary(result))
    return int(result["exit_code"])


def _summary(result: dict[str, Any]) -> str:
    lines = [f"report: {result['report']}"]
    if result["ok"]:
        took, compared = result["seconds"], result["compared"]
        lines.append(
            f"score {result['score']:g}: median {took['median']:g} s of {len(result['runs'])} runs, "
            f"{took['min']:g} to {took['max']:g} s, on {result['gpu']}"
        )
        if compared:
            lines.append(f"{compared['deviation']:+.0%} against {compared['runs']} earlier runs")
    return "\n".join(lines)
