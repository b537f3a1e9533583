"""The operator's tasks, as fabfile.py calls them. Each prints, and returns an exit code of ltxops.errors."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import TextIOWrapper

from ltxops.errors import BadInput, CheckFailed, LtxopsError
from ltxops.fleet import logs as log_following
from ltxops.fleet import restart as restarting
from ltxops.fleet import status as surveying
from ltxops.fleet import tunnel as tunnelling
from ltxops.fleet.connect import Access
from ltxops.fleet.inventory import Target
from ltxops.fleet.selection import Selection, choose, only
from ltxops.upkeep.health import clean

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
#: Wide enough for a table in a log, where nobody wraps lines.
_LOG_WIDTH = 200


def logs(
    selection: Selection, access: Access, program: str, lines: str, forever: bool, reconnect: str
) -> int:
    """Follow a program's log until Ctrl-C, or show its last lines."""
    request = log_following.Request(
        program, _number("--lines", lines, 0, 10**9), forever, _number("--reconnect", reconnect, 0, 86400)
    )
    targets = _chosen(selection, access)
    width = max(len(target.name) for target in targets)
    colours = {target.name: _COLOURS[index % len(_COLOURS)] for index, target in enumerate(targets)}

    def show(line: log_following.Line) -> None:
        stream = sys.stderr if line.remark else sys.stdout
        prefix = f"{line.host:<{width}} |"
        if stream.isatty() and "NO_COLOR" not in os.environ:
            prefix = f"\x1b[{colours[line.host]}m{prefix}\x1b[0m"
        print(f"{prefix} -- {line.text}" if line.remark else f"{prefix} {line.text}", file=stream)

    try:
        failures = log_following.follow(targets, access, request, show, sys.stdout.flush)
    except KeyboardInterrupt:
        return 0  # the way in which following a log ends
    return _code(failures)


def status(selection: Selection, access: Access, as_json: bool) -> int:
    """Show what runs on each host; exit 1 if anything is not well or a host cannot be asked."""
    reports = surveying.survey(_chosen(selection, access), access)
    failures = [report.failure for report in reports if report.failure is not None]
    if as_json:
        print(json.dumps({"ok": not failures, "hosts": [report.to_json() for report in reports]}))
    else:
        print(surveying.table(reports, None if sys.stdout.isatty() else _LOG_WIDTH))
    for failure in failures:
        say(f"fab: {failure}")
    return CheckFailed.exit_code if failures else 0


def restart(selection: Selection, access: Access, program: str, timeout: str) -> int:
    """Restart a program on one host after the other."""
    if not program:
        raise BadInput("--program is missing: say which program to restart, such as comfyui")
    timeout_seconds = _number("--timeout", timeout, 1, 86400)
    targets = _chosen(selection, access)
    if len(targets) > 1 and not selection.explicit:
        names = ", ".join(target.name for target in targets)
        raise BadInput(f"the inventory has {len(targets)} hosts ({names}): say which with --on, or --on all")
    failures = []
    left_alone = False
    for outcome in restarting.restart(targets, access, program, timeout_seconds, say):
        if outcome.failure is not None:
            failures.append(outcome.failure)
            say(f"fab: {outcome.failure}")
            for line in outcome.log_tail:
                say(f"  | {line}")
        elif outcome.touched:
            print(f"{outcome.host}: {clean(outcome.text)}", flush=True)
        else:
            left_alone = True
            say(f"{outcome.host}: {outcome.text}")
    return _code(failures) or (CheckFailed.exit_code if left_alone else 0)


def tunnel(selection: Selection, access: Access, ports: dict[str, str], reconnect: str) -> int:
    """Open local ports to a host's programs until Ctrl-C."""
    options = {name: f"--{name}-port" for name in ports}
    local_ports = {name: _number(options[name], port, 1, 65535) for name, port in ports.items()}
    patience_seconds = _number("--reconnect", reconnect, 0, 86400)
    target = only(_chosen(selection, access), "a tunnel leads to one host")
    open_tunnel = tunnelling.Tunnel(target, access, say)
    ways = tunnelling.routes(open_tunnel.describe(), local_ports, options)

    def ready() -> None:
        for way in ways:
            print(
                f"http://127.0.0.1:{way.local_port} is {way.program} of {target.name} ({way.host}:{way.port})"
            )
        print("Ctrl-C closes the tunnel.", flush=True)

    try:
        open_tunnel.serve(ways, patience_seconds, ready)
    except KeyboardInterrupt:
        say("the tunnel is closed")
    return 0


def guarded(run: Callable[[], int]) -> int:
    """Run a task; a failure becomes one sentence and its exit code, as in the `ltxops` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a log may hold what the terminal cannot show
    try:
        code = run()
        sys.stdout.flush()
        return code
    except LtxopsError as error:
        say(f"fab: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("fab: interrupted")
        return 130
    except BrokenPipeError:
        # The reader (head, less) went away; keep the interpreter from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def say(message: str) -> None:
    """Print one line on stderr; what a host said is in it, so control characters are taken out."""
    print(clean(message), file=sys.stderr, flush=True)


def _chosen(selection: Selection, access: Access) -> list[Target]:
    """Return the hosts. A password of --prompt-for-sudo-password is for those whose inventory has none."""
    asked = access.config.sudo.password
    return [
        target if target.become_password else replace(target, become_password=asked)
        for target in choose(selection)
    ]


def _number(option: str, text: str, low: int, high: int) -> int:
    if not text.isdecimal() or not low <= int(text) <= high:
        raise BadInput(f"{option} is {text!r}: give a whole number from {low} to {high}")
    return int(text)


def _code(failures: Sequence[LtxopsError]) -> int:
    """Return the exit code that all failures share, 1 where they differ, 0 without any."""
    codes = {failure.exit_code for failure in failures}
    return codes.pop() if len(codes) == 1 else CheckFailed.exit_code if codes else 0
