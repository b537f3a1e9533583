"""The cleaners: whether something runs them, and what their last runs said."""

import json
import time
from pathlib import Path
from typing import Any

from ltxops.errors import BadInput, DiskFull
from ltxops.units import format_duration
from ltxops.upkeep.doctor.checks import Check, from_faults
from ltxops.upkeep.doctor.settings import Settings
from ltxops.upkeep.janitor_config import load

#: The janitor beats every second, and a run of the cleaners may take minutes.
OLDEST_BEAT_SECONDS = 900.0
#: How much later than twice its interval a run may end.
LATE_SECONDS = 900.0


def check_cleaners(settings: Settings) -> Check:
    """Cron or the janitor runs the cleaners, whichever this host uses."""
    if settings.cleaner == "cron":
        names = {_name_of(entry) for entry in Path("/proc").glob("[0-9]*/comm")}
        faults = [] if settings.cron_file.is_file() else [f"{settings.cron_file} is gone"]
        faults += [] if names & {"cron", "crond"} else ["no cron daemon runs"]
        fix = "start cron, or provision again and the janitor takes over"
        return from_faults("cleaners", faults, "cron runs them", fix)
    age = time.time() - (settings.state / "janitor.heartbeat").stat().st_mtime
    alive = age <= OLDEST_BEAT_SECONDS
    said = "the janitor runs them" if alive else f"the janitor gave its last sign of life {age:.0f} s ago"
    return Check("cleaners", alive, said, "restart it: supervisorctl restart janitor")


def check_runs(settings: Settings) -> Check:
    """Each cleaner has run lately, and its last run did what it should: above all, found room."""
    file = settings.etc / "janitor.yaml"
    config, now = load(str(file)), time.time()
    if config.reports is None:
        raise BadInput(f"{file} names no folder of reports: provision the host again")
    reports = {job.name: read_report(config.reports / f"{job.name}.json") for job in config.jobs}
    configured = now - file.stat().st_mtime
    faults = [
        fault
        for job in config.jobs
        for fault in judge_run(job.name, job.every_seconds, reports[job.name], configured, now)
    ]
    full = any((report or {}).get("exit_code") == DiskFull.exit_code for report in reports.values())
    fix = "free space by hand, nothing is left that may be deleted" if full else "see cleanup.log"
    good = ", ".join(f"{name}: {_told(report, now)}" for name, report in reports.items())
    return from_faults("cleaning", faults, good, f"{fix}; docs/cleanup.md")


def read_report(file: Path) -> dict[str, Any] | None:
    """Return the report of a cleaner's last run, None where there is none. Raises ValueError for nonsense."""
    try:
        report: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    return report


def judge_run(
    name: str, every_seconds: int, report: dict[str, Any] | None, configured_seconds: float, now: float
) -> list[str]:
    """Return what is wrong with the last run of the cleaner `name`.

    `configured_seconds` is how long ago its settings were written, `now` is in seconds since the epoch.
    """
    limit = 2 * every_seconds + LATE_SECONDS
    if report is None:
        return [f"{name} has never run"] if configured_seconds > limit else []
    faults = []
    if abs(now - report["at"]) > limit:
        faults.append(f"{name} ran {_told(report, now)}, and should every {format_duration(every_seconds)}")
    if not report["ok"]:
        faults.append(f"{name} failed {_told(report, now)}: {report['error']}")
    return faults


def _told(report: dict[str, Any] | None, now: float) -> str:
    return f"{(now - report['at']) / 60:.0f} min ago" if report else "not yet"


def _name_of(entry: Path) -> str:
    try:
        return entry.read_text().strip()
    except OSError:
        return ""
