#!/usr/bin/python
"""Ansible module: keep the gateway's tokens that the inventory names, each in a file of its owner alone."""

from __future__ import annotations

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.ltxops_tokens import FOLDER, problems

DOCUMENTATION = r"""
module: ltxops_tokens
short_description: Keep the gateway's tokens of the inventory
description:
  - Writes the host's own token, and one file for each named one, and removes those that are no longer given.
  - What C(ltxops token new) has made on the host is left alone. C(ltxops token apply) tells nginx of all.
options:
  directory:
    description: Folder of the host's settings.
    type: path
    required: true
  token:
    description: The host's own token; left as it is when not given.
    type: str
  tokens:
    description: The others, by name.
    type: dict
    required: true
author: ["the ltxops maintainers"]
"""

EXAMPLES = r"""
- name: Keep the tokens that were given
  ltxops_tokens:
    directory: /etc/ltxops
    tokens: "{{ vault_gateway_tokens }}"
"""

RETURN = r"""
names:
  description: The tokens that were written or removed.
  returned: success
  type: list
  elements: str
"""


def taken(directory: Path, names: list[str]) -> list[str]:
    """Return which of these names are tokens that were made on the host."""
    return [name for name in names if (directory / "tokens" / name).exists()]


def keep(module: AnsibleModule, path: Path, value: str) -> bool:
    """Bring one file to its content and mode; returns whether it differed. It appears whole or not at all."""
    if path.is_file() and path.read_text(errors="replace") == f"{value}\n":
        return bool(module.set_mode_if_different(str(path), "0600", False))
    if not module.check_mode:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{value}\n")
        part.replace(path)
    return True


def main() -> None:
    """Refuse what cannot be, then write and remove."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "token": {"type": "str", "no_log": True},
            "tokens": {"type": "dict", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    directory, token = Path(module.params["directory"]), module.params["token"]
    tokens = {str(name): str(value) for name, value in module.params["tokens"].items()}
    wrong = list(problems(token, tokens))
    wrong += [
        f"{name} is in gateway_tokens and was made on the host, too: revoke that one or choose another name"
        for name in ([] if wrong else taken(directory, list(tokens)))
    ]
    if wrong:
        module.fail_json(msg="; ".join(f"{sentence} [ltxops exit 2]" for sentence in wrong))
    wanted = {directory / FOLDER / name: value for name, value in tokens.items()}
    if token is not None:
        wanted[directory / "token"] = token
    changed = [path.name for path, value in wanted.items() if keep(module, path, value)]
    for path in sorted((directory / FOLDER).glob("*")):
        if path not in wanted:
            changed.append(path.name)
            if not module.check_mode:
                path.unlink()
    module.exit_json(changed=bool(changed), names=changed)


if __name__ == "__main__":
    main()
