"""Entry point of `ltxops <noun> <verb>`: finds the command, runs it, and turns a failure into one line."""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from ltxops import __version__
from ltxops.cli import benchmark, embedded, generation, guard, models, services, tokens, upkeep, wrapper
from ltxops.cli.output import log
from ltxops.errors import LtxopsError

EXIT_CODES = """exit codes:
  0 done, or nothing to do      4 not enough disk
  1 a check failed              5 network or hub unreachable
  2 bad input or configuration  6 busy: another run holds the lock
  3 integrity                   7 access: token missing, refused, or repository gated
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="ltxops",
        description="Provision and operate LTX-2 video hosts.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ltxops {__version__}")
    nouns = parser.add_subparsers(metavar="COMMAND", required=True)
    for noun in (models, generation, benchmark, upkeep, services, tokens, guard, wrapper, embedded):
        noun.register(nouns)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (see `ltxops --help`)."""
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except LtxopsError as error:
        return _tell(args, error)
    except KeyboardInterrupt:
        log("ltxops: interrupted")
        return 130
    except BrokenPipeError:
        # The reader (head, less) went away; keep the interpreter from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        from ltxops.models.durable import explained

        return _tell(args, explained(error))


def _tell(args: argparse.Namespace, error: LtxopsError) -> int:
    log(f"ltxops: {error}")
    if args.json:
        print(json.dumps({"ok": False, "error": str(error), "exit_code": error.exit_code}))
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
