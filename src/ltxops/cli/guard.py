"""Commands of the nouns watchdog and doctor."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ltxops.cli.output import Subparsers, add_command, emit, log

if TYPE_CHECKING:
    from ltxops.upkeep.doctor.checks import Check


def register(nouns: Subparsers) -> None:
    """Add `watchdog` and `doctor`."""
    watchdog = add_command(
        nouns,
        "watchdog",
        _watchdog,
        "restart programs that run but answer nobody; runs until it is ended",
        "ltxops watchdog --config /etc/ltxops/host.json --record /var/lib/ltxops/watchdog.json",
    )
    watchdog.add_argument("--record", required=True, metavar="FILE", help="where faults are noted")
    watchdog.add_argument("--every", default="10s", metavar="TIME", help="between two looks (10s)")
    watchdog.add_argument("--hang-after", default="2m", metavar="TIME", help="silence that is a hang (2m)")
    watchdog.add_argument(
        "--start-after", default="5m", metavar="TIME", help="silence of a program that is starting (5m)"
    )
    doctor = add_command(
        nouns,
        "doctor",
        _doctor,
        "check services, sockets, versions, secrets, disk and more; exit 1 if anything is not right",
        "ltxops doctor --json",
    )
    for parser in (watchdog, doctor):
        parser.add_argument(
            "--config",
            default="/etc/ltxops/host.json",
            metavar="FILE",
            help="the host description (/etc/ltxops/host.json)",
        )


def _watchdog(args: argparse.Namespace) -> int:
    from ltxops.units import parse_duration
    from ltxops.upkeep.host import load
    from ltxops.upkeep.watchdog import Patience, Watchdog

    every = parse_duration(args.every, "--every")
    patience = Patience(
        parse_duration(args.hang_after, "--hang-after"), parse_duration(args.start_after, "--start-after")
    )
    Watchdog(load(args.config), patience, Path(args.record), log).run(every)
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from ltxops.errors import CheckFailed
    from ltxops.upkeep.doctor.run import examine, verdict

    checks = examine(args.config)
    failure = verdict(checks)
    result: dict[str, object] = {"ok": not failure, "checks": [check.to_json() for check in checks]}
    if failure:
        result |= {"error": failure, "exit_code": CheckFailed.exit_code}
    emit(args, result, "\n".join(_line(check) for check in checks))
    if not failure:
        return 0
    log(f"ltxops: {failure}")
    return CheckFailed.exit_code


def _line(check: "Check") -> str:
    line = f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.detail}"
    return line if check.ok or not check.fix else f"{line}\n      {check.fix}"
