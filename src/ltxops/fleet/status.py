"""What runs on each host of the fleet: `ltxops services status` on all of them at once, in one table."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ltxops.errors import CheckFailed, LtxopsError
from ltxops.fleet.connect import Access
from ltxops.fleet.inventory import Target
from ltxops.fleet.machine import LOST, Finished, explain, reach
from ltxops.upkeep.health import clean

_ANSWER_SECONDS = 60.0
_AT_ONCE = 32
_COLUMNS = ("host", "program", "state", "pid", "uptime", "address", "health")


@dataclass(frozen=True)
class Report:
    """What one host said, or why it could not be asked."""

    host: str
    programs: list[dict[str, Any]] = field(default_factory=list)
    failure: LtxopsError | None = None
    reached: bool = True

    @property
    def ok(self) -> bool:
        """Every program runs and is well."""
        return self.failure is None

    def to_json(self) -> dict[str, Any]:
        """Return this host's entry in `--json`."""
        return {
            "host": self.host,
            "ok": self.ok,
            "reached": self.reached,
            "error": str(self.failure) if self.failure else None,
            "programs": self.programs,
        }


def survey(targets: Sequence[Target], access: Access) -> list[Report]:
    """Ask all targets at once. One that cannot be asked is in the result, too."""
    with ThreadPoolExecutor(max_workers=min(_AT_ONCE, len(targets))) as pool:
        return list(pool.map(lambda target: _ask(target, access), targets))


def _ask(target: Target, access: Access) -> Report:
    try:
        with reach(target, access) as machine:
            command = [f"{target.home}/venv/bin/ltxops", "services", "status", "--json"]
            return read(target, machine.run([*command, "--config", target.host_file], _ANSWER_SECONDS))
    except LtxopsError as error:
        return Report(target.name, failure=error, reached=False)


def read(target: Target, done: Finished) -> Report:
    """Make a report of the command's answer."""
    answer = answer_of(done)
    if answer is None:
        return Report(target.name, failure=explain(target, done), reached=done.code != LOST)
    programs = answer.get("programs", [])
    if answer.get("ok"):
        return Report(target.name, programs)
    return Report(target.name, programs, CheckFailed(f"{target.name}: {answer.get('error')}"))


def answer_of(done: Finished) -> dict[str, Any] | None:
    """Return the JSON object that a command of ours ends with, or None: then it was not run to its end."""
    lines = done.out.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and "ok" in answer else None


def rows(reports: Sequence[Report]) -> list[tuple[tuple[str, ...], bool]]:
    """Return the cells of each line of the table, and whether all is well there."""
    found: list[tuple[tuple[str, ...], bool]] = []
    for report in reports:
        if not report.programs:
            found.append(
                (
                    (report.host, "-", "unknown" if report.reached else "not reached", "-", "-", "-", "-"),
                    False,
                )
            )
        for program in report.programs:
            cells = (
                report.host,
                str(program.get("name")),
                str(program.get("state")),
                str(program.get("pid") or "-"),
                uptime(program.get("uptime_seconds") or 0),
                str(program.get("address") or "-"),
                str(program.get("health")),
            )
            found.append((tuple(map(clean, cells)), bool(program.get("ok"))))
    return found


def uptime(seconds: int) -> str:
    """Return seconds as days and a clock, `-` for none."""
    if not seconds:
        return "-"
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02}:{rest % 3600 // 60:02}:{rest % 60:02}"
    return f"{days}d {clock}" if days else clock


def table(reports: Sequence[Report], width: int | None) -> str:
    """Return the table as text; `width` in columns, None for that of the terminal, with its colours."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table()
    for column in _COLUMNS:
        shown.add_column(column, overflow="fold")
    for cells, ok in rows(reports):
        shown.add_row(*map(Text, cells), style="" if ok else "red")
    console = Console() if width is None else Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(shown)
    return captured.get().rstrip("\n")
