#!/usr/bin/python
"""Ansible module: run one ltxops command, and fail with the sentence it says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: ltxops_cli
short_description: Run an ltxops command on the host
description:
  - Runs C(ltxops) with C(--json) and returns the JSON object it prints.
  - When the command fails, the task fails with the command's own sentence and its exit code.
options:
  command:
    description: How ltxops is started, as a list.
    type: list
    elements: str
    required: true
  arguments:
    description: Noun, verb and options, without C(--json).
    type: list
    elements: str
    required: true
  user:
    description: User that the command runs as, when the module runs as root.
    type: str
  input:
    description: What the command reads, as one JSON object. With secrets in it, the task needs C(no_log).
    type: dict
author: ["the ltxops maintainers"]
"""

EXAMPLES = r"""
- name: Fetch and prove the weights
  ltxops_cli:
    command: [/opt/ltxops/venv/bin/ltxops]
    arguments: [models, sync, --profile, vast, --root, /workspace/ComfyUI/models]
"""

RETURN = r"""
result:
  description: The JSON object that the command printed.
  returned: success
  type: dict
"""

#: How much of a command's log tells why it failed; before that it tells how far it was.
LAST_LINES = 10


def parse_result(stdout: str) -> dict[str, Any]:
    """Return the JSON object on the last line of `stdout`, or an empty one when there is none."""
    lines = stdout.strip().splitlines()
    try:
        parsed = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def signal_of(exit_code: int) -> int:
    """Return the number of the signal that ended a command, 0 for none; runuser and shells add 128 to it."""
    return max(-exit_code, exit_code - 128, 0)


def sentence_of(result: dict[str, Any], stderr: str, exit_code: int) -> str:
    """Return the command's own account of its failure: `error` of its JSON, else what it wrote last.

    Where the command shows the end of a log (`log_tail`; `logs` of a smoke case), those lines follow.
    """
    said = result.get("error") or "\n".join(stderr.strip().splitlines()[-LAST_LINES:])
    if not result and (number := signal_of(exit_code)):
        # A killed command says nothing of it, and has no exit code of ltxops.
        said = f"the command was killed by signal {number}; run the playbook again"
        exit_code = 1
    said = said or "the command said nothing"
    lines = [*result.get("log_tail", [])]
    for case in result.get("cases", [result]):
        for name, tail in (case.get("logs") or {}).items():
            lines += [f"last lines of {name}:", *tail]
    return "\n  | ".join([f"{said} [ltxops exit {exit_code}]", *lines])


def as_user(name: str | None) -> list[str]:
    """Return what is put before a command so that it runs as `name`; nothing, where we are no root.

    runuser is in util-linux, which every Debian has; a small host has no sudo.
    """
    return ["runuser", "-u", name, "--"] if name and os.geteuid() == 0 else []


def is_missing(program: str) -> bool:
    """Say whether a program that is named by its path is not there."""
    return "/" in program and not Path(program).exists()


def main() -> None:
    """Run the command that the task describes."""
    module = AnsibleModule(
        argument_spec={
            "command": {"type": "list", "elements": "str", "required": True},
            "arguments": {"type": "list", "elements": "str", "required": True},
            "user": {"type": "str"},
            "input": {"type": "dict"},
        },
        supports_check_mode=False,
    )
    program = module.params["command"][0]
    if is_missing(program):
        sentence = (
            f"{program} is not on this host, role base installs it: run provision.yml without --tags first"
        )
        module.fail_json(msg=f"{sentence} [ltxops exit 2]", rc=2, result={})
    argv = [*as_user(module.params["user"]), *module.params["command"], *module.params["arguments"], "--json"]
    given = module.params["input"]
    exit_code, stdout, stderr = module.run_command(argv, data=None if given is None else json.dumps(given))
    result = parse_result(stdout)
    if exit_code != 0:
        module.fail_json(msg=sentence_of(result, stderr, exit_code), rc=exit_code, result=result, log=stderr)
    module.exit_json(changed=False, rc=0, result=result, log=stderr)


if __name__ == "__main__":
    main()
