"""Ansible action: wait for a task in the background, and show per host how far it is."""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()

#: How long the host itself waits for the end before it answers, so that few connections are needed: first,
#: and once it is known how much there is to do.
FIRST_LOOK_SECONDS = 1.0
LOOK_SECONDS = 10.0
#: A line is shown as often, while something is under way.
LINE_SECONDS = 10.0
#: How long a lost connection is tried again: the download goes on meanwhile.
PATIENCE_SECONDS = 60.0
RETRY_SECONDS = 2.0
#: What Ansible's wrapper says when it has ended a command at its time limit.
OUT_OF_TIME = "Timeout exceeded"
AGAIN = "run the playbook again: what has arrived is kept"


def failure(sentence: str, exit_code: int) -> dict[str, Any]:
    """Return the result of a task that failed as ltxops fails."""
    return {"failed": True, "msg": f"{sentence} [ltxops exit {exit_code}]"}


def so_far(progress: dict[str, Any] | None) -> str:
    """Return what a line tells of a command that runs."""
    said = (progress or {}).get("summary") or (progress or {}).get("note")
    return said or "no progress to show yet"


def counts(progress: dict[str, Any] | None) -> bool:
    """Say whether a command that runs knows already how much it has to do."""
    return progress is not None and progress["bytes_total"] is not None


def late(deadline_seconds: float, told: str) -> dict[str, Any]:
    """Return the failure of a command that takes too long."""
    return failure(
        f"not there after {deadline_seconds:.0f} s ({told}); {AGAIN}, or allow more time "
        "(models_deadline_seconds for the weights)",
        5,
    )


def ending(look: dict[str, Any], deadline_seconds: float, told: str) -> dict[str, Any] | None:
    """Return the task's result once the command has ended, None while it runs; `told` is its last line."""
    outcome: dict[str, Any] | None = look["outcome"]
    if outcome is not None and outcome.get("msg") == OUT_OF_TIME:
        return late(deadline_seconds, told)
    if outcome is not None:
        # Of an ltxops command the changes are what it fetched; any other task says itself if it made some.
        changed = outcome["result"].get("fetched") if "result" in outcome else outcome.get("changed")
        return {**outcome, "changed": bool(changed) and not outcome.get("failed")}
    if not look["alive"]:
        return failure(
            f"the command in the background has ended without a result ({told}): it was killed, or the host "
            f"was started again; {AGAIN}",
            1,
        )
    return None


class ActionModule(ActionBase):
    """Polls the module of the same name until the command has ended."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("job", "progress_file", "deadline_seconds"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Wait, show, and return what the command returned."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        job = self._task.args.get("job") or {}
        if self._task.check_mode:
            return {**result, "skipped": True, "msg": "nothing was started in check mode"}
        if not job.get("results_file"):
            return {
                **result,
                **failure(
                    "nothing was started in the background in this run of the playbook, so there is nothing "
                    "to wait for: run the step that starts it, too",
                    2,
                ),
            }
        deadline = float(self._task.args["deadline_seconds"])
        return {**result, **self._wait(job["results_file"], deadline, task_vars or {})}

    def _wait(self, results_file: str, deadline: float, task_vars: dict[str, Any]) -> dict[str, Any]:
        host = task_vars["inventory_hostname"]
        begin = time.monotonic()
        # Of a task without a file of its own nothing has to be found out before its lines are worth showing.
        shown_at, counting = float("-inf"), not self._task.args.get("progress_file")
        told = "no progress was shown"
        patience = LOOK_SECONDS if counting else FIRST_LOOK_SECONDS
        while True:
            look = self._look(results_file, patience, host, task_vars)
            if look.get("failed"):
                return look
            progress = self._progress(look, time.monotonic() - begin)
            line = so_far(progress)
            told = told if progress is None else line
            ended = ending(look, deadline, told)
            if ended is not None:
                return ended
            left = begin + deadline - time.monotonic()
            if left <= 0:
                return late(deadline, told)
            if (counts(progress) and not counting) or time.monotonic() - shown_at >= LINE_SECONDS:
                shown_at, counting = time.monotonic(), counts(progress)
                display.display(f"{host}: {line}")
            patience = min(LOOK_SECONDS if counting else FIRST_LOOK_SECONDS, left)

    def _progress(self, look: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """Return how far the command is; of one that keeps no file, for how long it has run."""
        if self._task.args.get("progress_file"):
            progress: dict[str, Any] | None = look["progress"]
            return progress
        return {"summary": f"{self._task.get_name()}: {seconds:.0f} s so far", "bytes_total": 0}

    def _look(
        self, results_file: str, wait_seconds: float, host: str, task_vars: dict[str, Any]
    ) -> dict[str, Any]:
        """Ask the host; a connection that breaks is tried again for a while."""
        arguments = {
            "results_file": results_file,
            "progress_file": self._task.args.get("progress_file"),
            "wait_seconds": wait_seconds,
        }
        give_up = time.monotonic() + wait_seconds + PATIENCE_SECONDS
        while True:
            try:
                answer: dict[str, Any] = self._execute_module(
                    module_name="ltxops_join", module_args=arguments, task_vars=task_vars
                )
                return answer
            except AnsibleConnectionFailure:
                if time.monotonic() > give_up:
                    raise
                display.display(f"{host}: connection lost, trying again; the command goes on meanwhile")
                time.sleep(RETRY_SECONDS)
