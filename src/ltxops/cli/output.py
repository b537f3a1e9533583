"""What every command shares: how a result is printed and which options each one has."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

#: `add_parser` of a subparsers object; every noun registers itself with it.
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
#: What a command runs: takes the parsed arguments, returns the exit code.
Command: TypeAlias = Callable[[argparse.Namespace], int]


def add_command(
    nouns: Subparsers, verb: str, run: Command, summary: str, example: str
) -> argparse.ArgumentParser:
    """Add one verb with the options all verbs have. `example` is shown at the end of `--help`."""
    parser = nouns.add_parser(
        verb,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout at the end; logs go to stderr"
    )
    parser.set_defaults(run=run)
    return parser


def emit(args: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    """Print `result` as one JSON object when `--json` was given, else `text`."""
    print(json.dumps(result) if args.json else text)


def log(message: str) -> None:
    """Print one line for a person on stderr, so that stdout stays one JSON object."""
    print(message, file=sys.stderr, flush=True)
