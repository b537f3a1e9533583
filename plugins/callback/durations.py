"""Ansible callback: after the recap, which tasks took longest. On with ANSIBLE_CALLBACKS_ENABLED."""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: durations
type: aggregate
short_description: The tasks that took longest
description:
  - Adds up how long each task took, over all hosts together, and prints the longest after the recap.
"""

#: So many tasks are listed.
LISTED = 12


def longest(spans: list[tuple[str, float]], count: int) -> list[str]:
    """Return a line for each of the `count` longest of `spans` (name, seconds), longest first."""
    ordered = sorted(spans, key=lambda span: span[1], reverse=True)
    return [f"{seconds:7.2f} s  {name}" for name, seconds in ordered[:count]]


class CallbackModule(CallbackBase):
    """Notes when each task began; a task ends where the next one begins."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "durations"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._begun: tuple[str, float] | None = None
        self._spans: list[tuple[str, float]] = []

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """End the span of the task before, and begin this one's."""
        self._end()
        self._begun = (task.get_name().strip(), time.monotonic())

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """Handlers are tasks, too."""
        self.v2_playbook_on_task_start(task, False)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print the longest."""
        self._end()
        total = sum(seconds for _, seconds in self._spans)
        self._display.display(f"{len(self._spans)} tasks in {total:.1f} s, the longest:")
        for line in longest(self._spans, LISTED):
            self._display.display(line)

    def _end(self) -> None:
        if self._begun is not None:
            name, begun = self._begun
            self._spans.append((name, time.monotonic() - begun))
        self._begun = None
