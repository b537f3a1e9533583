"""Commands of the noun services."""

import argparse
from typing import TYPE_CHECKING

from ltxops.cli.output import Subparsers, add_command, emit, log

if TYPE_CHECKING:
    from ltxops.upkeep.host import Host
    from ltxops.upkeep.services import Outcome, Status

#: Wide enough for a table in a log, where nobody wraps lines.
_LOG_WIDTH = 200


def register(nouns: Subparsers) -> None:
    """Add `services status`, `services wait`, `services apply` and `services restart`."""
    services = nouns.add_parser(
        "services", help="what runs on this host", description="What runs on this host, and is it well."
    )
    verbs = services.add_subparsers(metavar="VERB", required=True)
    status = add_command(
        verbs,
        "status",
        _status,
        "show every program: state, address, health, log; exit 1 if one is not running and well",
        "ltxops services status --config /etc/ltxops/host.json",
    )
    wait = add_command(
        verbs,
        "wait",
        _wait,
        "wait until every program is running and well; stop early when one cannot become so",
        "ltxops services wait --config /etc/ltxops/host.json --timeout 120",
    )
    apply = add_command(
        verbs,
        "apply",
        _apply,
        "restart what changed in supervisord's configuration, and that alone; wait until all is well",
        "ltxops services apply --config /etc/ltxops/host.json --timeout 120",
    )
    restart = add_command(
        verbs,
        "restart",
        _restart,
        "restart one program and wait until it is well; exit 1 if it does not become so",
        "ltxops services restart --config /etc/ltxops/host.json --program comfyui",
    )
    for parser in (status, wait, apply, restart):
        parser.add_argument("--config", required=True, metavar="FILE", help="the host description, host.json")
    for parser in (wait, apply):
        parser.add_argument(
            "--timeout", default="120", metavar="SECONDS", help="how long to wait (default: 120)"
        )
    restart.add_argument("--program", required=True, metavar="NAME", help="the program, as in host.json")
    restart.add_argument(
        "--timeout", default="300", metavar="SECONDS", help="how long it may take to stop and be well (300)"
    )


def _status(args: argparse.Namespace) -> int:
    from ltxops.upkeep.host import load
    from ltxops.upkeep.services import complaints, look

    host = load(args.config)
    statuses = look(host)
    failure = complaints(statuses)
    result = _result(host, statuses)
    if failure is not None:
        result |= {"error": str(failure), "exit_code": failure.exit_code}
    emit(args, result, "" if args.json else _table(host, statuses))
    if failure is None:
        return 0
    log(f"ltxops: {failure}")
    return failure.exit_code


def _wait(args: argparse.Namespace) -> int:
    from ltxops.upkeep.host import load
    from ltxops.upkeep.services import wait

    timeout = _seconds(args.timeout)
    host = load(args.config)
    outcome = wait(host, timeout, log)
    ready = "ready: " + ", ".join(program.name for program in host.programs)
    return _end(args, outcome, _result(host, outcome.statuses), ready)


def _apply(args: argparse.Namespace) -> int:
    from ltxops.upkeep.apply import apply
    from ltxops.upkeep.host import load

    timeout = _seconds(args.timeout)
    host = load(args.config)
    changed, outcome = apply(host, timeout, log)
    text = f"changed: {', '.join(changed) or 'nothing'}; all is well"
    return _end(args, outcome, {**_result(host, outcome.statuses), "changed": changed}, text)


def _restart(args: argparse.Namespace) -> int:
    from ltxops.upkeep.host import load
    from ltxops.upkeep.restart import restart

    timeout = _seconds(args.timeout)
    host = load(args.config)
    before, outcome = restart(host, args.program, timeout, log)
    result = _result(host, outcome.statuses)
    result["before"] = {"state": before.state, "pid": before.pid or None}
    now = outcome.statuses[0].process
    was = f"it was {before.state}" + (f", pid {before.pid}" if before.pid else "")
    return _end(args, outcome, result, f"{args.program} is running and well, pid {now.pid} ({was})")


def _end(args: argparse.Namespace, outcome: "Outcome", result: dict[str, object], text: str) -> int:
    from ltxops.errors import CheckFailed

    if not outcome.failure:
        emit(args, result, text)
        return 0
    log(f"ltxops: {outcome.failure}")
    for line in outcome.log_tail:
        log(f"  | {line}")
    if outcome.program is not None and not outcome.log_tail:
        log(f"  | (the log of {outcome.program.name} is empty)")
    if args.json:
        culprit = outcome.program.name if outcome.program else None
        result |= {"ok": False, "error": outcome.failure, "program": culprit, "log_tail": outcome.log_tail}
        emit(args, result | {"exit_code": CheckFailed.exit_code}, "")
    return CheckFailed.exit_code


def _seconds(text: str) -> float:
    from ltxops.errors import BadInput

    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 86400:
        raise BadInput(f"--timeout is {text!r}: give seconds, above 0 and at most 86400")
    return value


def _result(host: "Host", statuses: "list[Status]") -> dict[str, object]:
    return {
        "ok": all(status.ok for status in statuses),
        "name": host.name,
        "scope": host.scope,
        "url": host.url,
        "token_file": host.token_file,
        "programs": [status.to_json() for status in statuses],
    }


def _table(host: "Host", statuses: "list[Status]") -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=host.name, title_justify="left")
    for column in ("program", "state", "pid", "uptime", "address", "health", "log"):
        table.add_column(column, overflow="fold")
    for status in statuses:
        process = status.process
        cells = (
            status.program.name,
            process.state,
            str(process.pid or "-"),
            _uptime(process.uptime_seconds) if process.state == "RUNNING" else "-",
            status.program.address or "-",
            status.health.detail,
            status.program.log or "-",
        )
        table.add_row(*map(Text, cells), style="" if status.ok else "red")
    console = Console()
    if not console.is_terminal:
        console = Console(width=_LOG_WIDTH, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip("\n")


def _uptime(seconds: int) -> str:
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02}:{rest % 3600 // 60:02}:{rest % 60:02}"
    return f"{days}d {clock}" if days else clock
