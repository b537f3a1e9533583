"""Commands of the nouns clean and janitor."""

import argparse
from typing import TYPE_CHECKING

from ltxops.cli.output import Subparsers, add_command, emit, log

if TYPE_CHECKING:
    from ltxops.upkeep.report import Report


def register(nouns: Subparsers) -> None:
    """Add `clean ttl`, `clean pressure` and `janitor`."""
    clean = nouns.add_parser("clean", help="delete old outputs", description="Delete old outputs.")
    verbs = clean.add_subparsers(metavar="VERB", required=True)
    ttl = add_command(
        verbs,
        "ttl",
        _ttl,
        "delete outputs that are older than an age and that nobody uses",
        "ltxops clean ttl --dir /workspace/ComfyUI/output --older-than 10m --dry-run",
    )
    pressure = add_command(
        verbs,
        "pressure",
        _pressure,
        "while the disk is short of room, delete old outputs, oldest first",
        "ltxops clean pressure --dir /workspace/ComfyUI/output --min-free 512MiB --older-than 24h",
    )
    for parser in (ttl, pressure):
        parser.add_argument(
            "--dir", required=True, help="the output folder; it must hold the file .ltxops-output"
        )
        parser.add_argument(
            "--older-than", required=True, metavar="AGE", help="least age of what may go: 30s, 10m, 24h, 7d"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="say what would be deleted, delete nothing"
        )
    pressure.add_argument(
        "--min-free", required=True, metavar="SIZE", help="room that there must be: 512MiB, 1GiB, 512MB"
    )
    janitor = add_command(
        nouns,
        "janitor",
        _janitor,
        "run the cleaners again and again where no cron daemon does",
        "ltxops janitor --config /etc/ltxops/janitor.yaml",
    )
    janitor.add_argument(
        "--config", required=True, metavar="FILE", help="which cleaners to run, and how often"
    )


def _ttl(args: argparse.Namespace) -> int:
    from ltxops.units import parse_duration
    from ltxops.upkeep.cleaners import clean_ttl

    age = parse_duration(args.older_than, "--older-than")
    return _finish(args, clean_ttl(args.dir, age, args.dry_run))


def _pressure(args: argparse.Namespace) -> int:
    from ltxops.units import parse_duration, parse_size
    from ltxops.upkeep.cleaners import clean_pressure

    age = parse_duration(args.older_than, "--older-than")
    size = parse_size(args.min_free, "--min-free")
    return _finish(args, clean_pressure(args.dir, size, age, args.dry_run))


def _finish(args: argparse.Namespace, report: "Report") -> int:
    """Print a report: the line of the run, each problem, and why the run failed if it did."""
    from ltxops.upkeep.janitor import stamped

    line = stamped(report.line())
    emit(args, report.to_json(), line)
    if args.json:
        log(line)
    for problem in report.problems:
        log(f"  {problem}")
    if report.failure is None:
        return 0
    log(f"ltxops: {report.failure}")
    return report.failure.exit_code


def _janitor(args: argparse.Namespace) -> int:
    from ltxops.upkeep.janitor import Janitor
    from ltxops.upkeep.janitor_config import load

    janitor = Janitor(load(args.config), log)
    janitor.run()
    counts = {"ok": True, "runs": janitor.runs, "failures": janitor.failures}
    emit(args, counts, f"janitor ended after {janitor.runs} runs, {janitor.failures} of them failed")
    return 0
