"""`ltxops wrapper drain` and `ltxops wrapper resume`: a pause in which ComfyUI can be replaced."""

import argparse
from pathlib import Path

from ltxops.cli.output import Subparsers, add_command, emit, log
from ltxops.errors import BadInput


def register(verbs: Subparsers) -> None:
    """Add both verbs to the noun wrapper."""
    drain = add_command(
        verbs,
        "drain",
        _drain,
        "Take no new jobs, keep those that wait, and wait until ComfyUI has none.",
        "ltxops wrapper drain --state /var/lib/ltxops/wrapper --timeout 1800",
    )
    drain.add_argument(
        "--url", default="http://127.0.0.1:18288", help="where the wrapper answers (default: %(default)s)"
    )
    drain.add_argument(
        "--timeout",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="how long running jobs may take; 0 does not wait for them (default: %(default)g)",
    )
    drain.add_argument(
        "--hold",
        type=float,
        default=7200.0,
        metavar="SECONDS",
        help="when the drain ends by itself, if `resume` does not end it (default: %(default)g)",
    )
    resume = add_command(
        verbs,
        "resume",
        _resume,
        "End a drain: jobs are taken again, and those that wait go on.",
        "ltxops wrapper resume --state /var/lib/ltxops/wrapper",
    )
    for parser in (drain, resume):
        parser.add_argument(
            "--state", type=Path, required=True, metavar="DIR", help="the wrapper's state folder"
        )


def _drain(args: argparse.Namespace) -> int:
    from ltxops.wrapper import drain

    for name in ("timeout", "hold"):
        if not 0 <= getattr(args, name) < float("inf"):
            raise BadInput(f"--{name} is {getattr(args, name):g}: give seconds, 0 or more")
    drain.begin(args.state, args.hold)
    left = drain.wait(args.url, args.timeout, log)
    text = f"drained, but for {left} jobs that still run" if left else "drained: ComfyUI has no job"
    emit(args, {"ok": True, "left": left}, text)
    return 0


def _resume(args: argparse.Namespace) -> int:
    from ltxops.wrapper import drain

    was = drain.end(args.state)
    emit(args, {"ok": True, "drained": was}, "jobs are taken again" if was else "no drain was going on")
    return 0
