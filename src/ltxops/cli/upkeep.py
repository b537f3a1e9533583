"""Commands of the nouns clean and janitor."""

import argparse
import os
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltxops.cli.output import Subparsers, add_command, emit, log

if TYPE_CHECKING:
    from ltxops.upkeep.jobs import Outcome


def register(nouns: Subparsers) -> None:
    """Add `clean ttl`, `clean pressure`, `clean prove-cron` and `janitor`."""
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
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--dir", help="the output folder; it must hold the file .ltxops-output")
        what.add_argument(
            "--config", metavar="FILE", help="run the jobs of this kind of the janitor's configuration"
        )
        parser.add_argument(
            "--older-than", metavar="AGE", help="with --dir: least age of what may go: 30s, 10m, 24h, 7d"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="say what would be deleted, delete nothing"
        )
    pressure.add_argument(
        "--min-free", metavar="SIZE", help="with --dir: room that there must be: 512MiB, 1GiB, 512MB"
    )
    _register_schedulers(nouns, verbs)


def _register_schedulers(nouns: Subparsers, verbs: Subparsers) -> None:
    prove = add_command(
        verbs,
        "prove-cron",
        _prove_cron,
        "find out whether a cron daemon really starts what lies in /etc/cron.d",
        "ltxops clean prove-cron --stamp /var/lib/ltxops/cron-fires",
    )
    prove.add_argument("--stamp", required=True, metavar="FILE", help="where the proof is kept")
    prove.add_argument(
        "--timeout", type=int, default=80, metavar="SECONDS", help="how long to wait (%(default)s)"
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


def _needed(database_path: Path, *, grace_seconds: float) -> Collection[Path]:
    """Ask the wrapper's database, and its outbox beside it, which outputs must not be deleted yet."""
    from ltxops.wrapper.delivery.outbox import pending
    from ltxops.wrapper.needed import needed_paths

    deliveries = pending(database_path.with_name("outbox.sqlite3"))
    return needed_paths(database_path, grace_seconds=grace_seconds, pending_jobs=deliveries)


def _ttl(args: argparse.Namespace) -> int:
    from ltxops.units import parse_duration
    from ltxops.upkeep.cleaners import clean_ttl

    if args.config:
        return _configured(args, "ttl")
    age = parse_duration(args.older_than or "", "--older-than")
    return _finish(args, [clean_ttl(args.dir, age, args.dry_run)])


def _pressure(args: argparse.Namespace) -> int:
    from ltxops.units import parse_duration, parse_size
    from ltxops.upkeep.cleaners import clean_pressure

    if args.config:
        return _configured(args, "pressure")
    age = parse_duration(args.older_than or "", "--older-than")
    size = parse_size(args.min_free or "", "--min-free")
    return _finish(args, [clean_pressure(args.dir, size, age, args.dry_run)])


def _configured(args: argparse.Namespace, kind: str) -> int:
    """Run the configured jobs of one kind, as cron does; a job that fails does not stop the next one."""
    from ltxops.errors import BadInput
    from ltxops.upkeep.janitor_config import load
    from ltxops.upkeep.jobs import rotate, run_job

    if args.older_than or getattr(args, "min_free", None):
        raise BadInput("--older-than and --min-free go with --dir: with --config they are in the file")
    config = load(args.config)
    jobs = [job for job in config.jobs if job.run == kind]
    if not jobs:
        raise BadInput(f"{args.config} has no job that runs {kind}: add one")
    if config.log is not None and not args.dry_run:
        rotate(config.log, _try_to_log)
    return _finish(
        args, [run_job(config, job, _needed, "command", _try_to_log, args.dry_run) for job in jobs]
    )


def _try_to_log(line: str) -> None:
    """Log a line; the log may lie on the full disk, which must not stop the one who empties it."""
    with suppress(OSError):
        log(line)


def _finish(args: argparse.Namespace, outcomes: "list[Outcome]") -> int:
    """Print each run: its line, what it did, and why it failed if it did."""
    from ltxops.errors import LtxopsError
    from ltxops.upkeep.janitor import stamped

    results: list[dict[str, Any]] = []
    told: list[str] = []
    logged: list[str] = []
    failures: list[LtxopsError] = []
    for outcome in outcomes:
        if isinstance(outcome, LtxopsError):
            results.append({"ok": False, "error": str(outcome), "exit_code": outcome.exit_code})
            failures.append(outcome)
            continue
        line = stamped(outcome.line())
        results.append(outcome.to_json())
        told += [line, *(f"  {detail}" for detail in outcome.details())]
        logged += [line, *(f"  {problem}" for problem in outcome.problems)]
        if outcome.failure is not None:
            failures.append(outcome.failure)
    try:
        emit(args, {"ok": not failures, "runs": results} if args.config else results[0], "\n".join(told))
        sys.stdout.flush()
    except OSError:
        # It lies on the full disk: the exit code has to tell, and what is still unsaid goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    for line in [*(logged if args.json else ()), *(f"ltxops: {failure}" for failure in failures)]:
        _try_to_log(line)
    return failures[0].exit_code if failures else 0


def _prove_cron(args: argparse.Namespace) -> int:
    from pathlib import Path

    from ltxops.upkeep.cron_proof import prove

    proven = prove(Path(args.stamp), args.timeout)
    emit(args, {"ok": True, "waited_seconds": proven}, f"cron fires (waited {proven} s)")
    return 0


def _janitor(args: argparse.Namespace) -> int:
    from ltxops.upkeep.janitor import Janitor
    from ltxops.upkeep.janitor_config import load

    janitor = Janitor(load(args.config), _needed, _try_to_log)
    janitor.run()
    counts = {"ok": True, "runs": janitor.runs, "failures": janitor.failures}
    emit(args, counts, f"janitor ended after {janitor.runs} runs, {janitor.failures} of them failed")
    return 0
