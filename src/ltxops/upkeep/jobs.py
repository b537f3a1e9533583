"""Run one configured job, whoever started it, and leave what it did where others find it."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ltxops.errors import CheckFailed, LtxopsError
from ltxops.upkeep.cleaners import clean_pressure, clean_ttl
from ltxops.upkeep.janitor_config import JanitorConfig, Job
from ltxops.upkeep.needed import Question, Wrapper
from ltxops.upkeep.report import Report

#: A log that nobody else rotates is set aside at this size; one older one is kept.
LOG_BYTES = 5 * 2**20


Outcome = Report | LtxopsError


def run_job(
    config: JanitorConfig,
    job: Job,
    question: Question,
    started_by: str,
    write_line: Callable[[str], None],
    dry_run: bool = False,
) -> Outcome:
    """Run the cleaner that `job` describes, and leave its report; returns why it failed if there is none."""
    outcome: Outcome
    try:
        outcome = _clean(job, question, dry_run)
    except LtxopsError as error:
        outcome = error
    except OSError as error:
        outcome = CheckFailed(str(error))
    if config.reports is not None and not dry_run:
        try:
            leave_report(config.reports, job, outcome, started_by)
        except OSError as error:  # a full disk must not stop the one who empties it
            write_line(f"job {job.name}: its report cannot be written: {error}")
    return outcome


def _clean(job: Job, question: Question, dry_run: bool) -> Report:
    wrapper = None
    if job.wrapper is not None:
        settings = job.wrapper
        wrapper = Wrapper(settings.database, question, settings.grace_seconds, settings.cap_seconds)
    if job.min_free_bytes is None:
        return clean_ttl(job.dir, job.older_than_seconds, dry_run, wrapper)
    return clean_pressure(job.dir, job.min_free_bytes, job.older_than_seconds, dry_run, wrapper, job.steps)


def leave_report(folder: Path, job: Job, outcome: Outcome, started_by: str) -> None:
    """Write `<folder>/<job>.json`: when it ran, by whom, and how it went.

    A busy run leaves the report of the one before. Raises OSError when the file cannot be written.
    """
    if isinstance(outcome, Report) and outcome.busy:
        return
    told: dict[str, Any] = {"job": job.name, "run": job.run, "at": int(time.time()), "by": started_by}
    if isinstance(outcome, Report):
        told |= {key: value for key, value in outcome.to_json().items() if key != "deleted"}
    else:
        told |= {"ok": False, "dir": job.dir, "error": str(outcome), "exit_code": outcome.exit_code}
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    part = folder / f".{job.name}.{os.getpid()}"
    try:
        part.write_text(json.dumps(told) + "\n")
        part.replace(folder / f"{job.name}.json")
    except OSError:
        part.unlink(missing_ok=True)
        raise


def rotate(log: Path, write_line: Callable[[str], None]) -> None:
    """Set `log` aside as `<log>.1` once it is large. Who has it open goes on writing there."""
    try:
        if log.stat().st_size > LOG_BYTES:
            log.replace(log.with_name(f"{log.name}.1"))
    except FileNotFoundError:
        return
    except OSError as error:
        write_line(f"{log} cannot be rotated: {error}")
