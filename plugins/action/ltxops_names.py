"""Ansible action: refuse variables that are named like a role's and that no role has.

Ansible takes a misspelt variable, from an inventory or from -e, without a word.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils.common.yaml import yaml_load
from ansible.plugins.action import ActionBase


def variables_of(roles: Path) -> dict[str, list[str]]:
    """Return the variables that each role documents, by role."""
    found = {}
    for spec in sorted(roles.glob("*/meta/argument_specs.yml")):
        options = yaml_load(spec.read_text())["argument_specs"]["main"]["options"]
        found[spec.parents[1].name] = list(options or {})
    return found


def complaints(given: Iterable[str], variables: dict[str, list[str]]) -> list[str]:
    """Return a sentence for each name in `given` that begins like a role's and that no role has.

    Of a name with a misspelt role only where the rest of it is right: other names are somebody else's.
    """
    known = {name for names in variables.values() for name in names}
    said = []
    for name in sorted(set(given) - known):
        begin, _, rest = name.partition("_")
        if begin in variables and rest:
            close = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"did you mean {close[0]}?" if close else f"roles/{begin}/README.md lists them"
            said.append(f"{name} is no variable of role {begin}: {hint}")
            continue
        for role in difflib.get_close_matches(begin, sorted(variables), n=1, cutoff=0.8):
            if f"{role}_{rest}" in known:
                said.append(f"{name} is no variable of any role: did you mean {role}_{rest}?")
    return said


class ActionModule(ActionBase):
    """Looks at every variable that the host has; needs no connection to it."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset(("roles",))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with a sentence for each variable that nobody knows."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        said = complaints(task_vars or {}, variables_of(Path(self._task.args["roles"])))
        if said:
            return {**result, "failed": True, "msg": f"{'; '.join(said)} [ltxops exit 2]"}
        return {**result, "changed": False}
