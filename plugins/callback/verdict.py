"""Ansible callback: after the recap, one line a host that says what stopped it."""

from __future__ import annotations

from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: verdict
type: notification
short_description: One closing line for each host that failed
description:
  - Collects the message of the task that stopped each host and prints them after the recap.
"""


#: How the end of a log is marked in a message.
LOG_LINE = "  | "


def reason_in(outcome: dict[str, Any]) -> str:
    """Return what a failed task says of itself; of a loop, what its first failed item says."""
    failed_items = [item for item in outcome.get("results", []) if item.get("failed")]
    if failed_items:
        return reason_in(failed_items[0])
    message = str(outcome.get("msg") or "no message").strip()
    # The message of command and shell is only that the exit code was not zero; some complain on stdout.
    output = str(outcome.get("stderr") or outcome.get("stdout") or "")
    errors = [line.strip() for line in output.splitlines() if line.strip()]
    return "; ".join(errors)[-600:] if errors and "return code" in message else message


class CallbackModule(CallbackBase):
    """Remembers why each host stopped, and says so last."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "verdict"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._reasons: dict[str, str] = {}

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Keep the message of a task that failed."""
        if not ignore_errors:
            self._remember(result, "failed")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Keep the message of a host that could not be reached."""
        self._remember(result, "unreachable")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print the reasons, one line a host."""
        for host, reason in sorted(self._reasons.items()):
            # The ends of logs come first, so that the sentence is what is read last.
            lines = reason.splitlines()
            for line in lines:
                if line.startswith(LOG_LINE):
                    self._display.display(line)
            # ssh draws a frame around its warnings.
            said = [line.strip(" @") for line in lines if not line.startswith(LOG_LINE)]
            self._display.display(f"{host}: {' '.join(filter(None, said))[-900:]}", color="red")

    def _remember(self, result: Any, kind: str) -> None:
        outcome = result.result if hasattr(result, "result") else result._result
        task = result.task if hasattr(result, "task") else result._task
        host = result.host if hasattr(result, "host") else result._host
        self._reasons[host.get_name()] = f"{kind} at '{task.get_name().strip()}': {reason_in(outcome)}"
