"""The janitor: runs the cleaners at their intervals where no cron daemon does."""

import datetime
import signal
import time
from collections.abc import Callable
from types import FrameType

import schedule

from ltxops.errors import LtxopsError
from ltxops.upkeep.janitor_config import JanitorConfig, Job
from ltxops.upkeep.jobs import run_job
from ltxops.upkeep.needed import Question
from ltxops.upkeep.report import Report

#: The loop turns at least this often, so that the heartbeat stays fresh.
TURN_SECONDS = 1.0
#: The first runs of the jobs lie this far apart: two cleaners of one folder would find each other busy.
STAGGER_SECONDS = 1.0
#: A wall clock that moved this much against the steady one was set by somebody.
CLOCK_JUMP_SECONDS = 60.0


class _Terminated(Exception):
    """SIGTERM arrived while the janitor slept."""


def stamped(line: str) -> str:
    """Return `line` with the time in front, as it goes into a log."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return f"{now:%Y-%m-%dT%H:%M:%SZ} {line}"


class Janitor:
    """Runs every job after the start, one after the other, and then at its interval, until SIGTERM."""

    def __init__(self, config: JanitorConfig, question: Question, write_line: Callable[[str], None]) -> None:
        self._config = config
        self._question = question
        self._write_line = write_line
        self._scheduler = schedule.Scheduler()
        self.runs = 0
        self.failures = 0
        self._stopping = False
        self._sleeping = False

    def run(self) -> None:
        """Work until SIGTERM. It ends a run between two deletions; what was deleted is logged."""
        before = signal.signal(signal.SIGTERM, self._terminate)
        try:
            self._say(f"janitor started with {len(self._config.jobs)} jobs")
            self._loop()
        except _Terminated:
            pass
        finally:
            signal.signal(signal.SIGTERM, before)
        self._say("janitor stopped by SIGTERM")

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        if self._sleeping:
            raise _Terminated

    def _loop(self) -> None:
        self._plan()
        clock_offset = time.time() - time.monotonic()
        while not self._stopping:
            # The scheduler goes by the wall clock: set back a year, it would do nothing for a year.
            if abs(time.time() - time.monotonic() - clock_offset) > CLOCK_JUMP_SECONDS:
                clock_offset = time.time() - time.monotonic()
                self._say("the clock was set; all jobs are planned anew")
                self._plan()
            self._beat()
            self._scheduler.run_pending()
            self._sleep()

    def _sleep(self) -> None:
        idle = self._scheduler.idle_seconds
        self._sleeping = True
        if not self._stopping:
            time.sleep(min(max(idle or 0.0, 0.05), TURN_SECONDS))
        self._sleeping = False

    def _plan(self) -> None:
        self._scheduler.clear()
        for index, job in enumerate(self._config.jobs):
            planned = self._scheduler.every(job.every_seconds).seconds.do(self._run_job, job)
            planned.next_run = datetime.datetime.now() + datetime.timedelta(seconds=index * STAGGER_SECONDS)

    def _run_job(self, job: Job) -> None:
        if self._stopping:
            return
        self.runs += 1
        outcome = run_job(self._config, job, self._question, "janitor", self._say)
        if isinstance(outcome, LtxopsError):
            self.failures += 1
            self._say(f"job {job.name} failed: {outcome}")
        else:
            self._tell(job, outcome)

    def _tell(self, job: Job, report: Report) -> None:
        if report.failure is None:
            self._say(f"job {job.name}: {report.line()}")
        else:
            self.failures += 1
            self._say(f"job {job.name} failed: {report.failure} [{report.line()}]")
        for line in report.details():
            self._say(f"job {job.name}:   {line}")

    def _beat(self) -> None:
        if self._config.heartbeat is not None:
            try:
                self._config.heartbeat.touch()
            except OSError as error:  # a full disk must not stop the one who empties it
                self._say(f"heartbeat {self._config.heartbeat} cannot be touched: {error}")

    def _say(self, line: str) -> None:
        self._write_line(stamped(line))
