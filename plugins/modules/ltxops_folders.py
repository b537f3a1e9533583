#!/usr/bin/python
"""Ansible module: make many folders in one go, each with its owner and mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: ltxops_folders
short_description: Make folders
description:
  - Does what M(ansible.builtin.file) with C(state=directory) does, for a whole list in one run of a module.
options:
  folders:
    description: The folders, parents before what lies in them.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      owner:
        description: User name; left as it is when not given.
        type: str
      group:
        description: Group name or id; left as it is when not given.
        type: str
      mode:
        description: Octal mode, as a string.
        type: str
        default: "0755"
author: ["the ltxops maintainers"]
"""

EXAMPLES = r"""
- name: Make the folders
  ltxops_folders:
    folders: [{path: /opt/ltxops}, {path: /var/lib/ltxops, owner: ltxops, mode: "0750"}]
"""

RETURN = r"""
made:
  description: The folders that were made or changed.
  returned: success
  type: list
  elements: str
"""

FOLDER_OPTIONS: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "mode": {"type": "str", "default": "0755"},
}


def settle(module: AnsibleModule, folder: dict[str, Any]) -> bool:
    """Bring one folder to what is wanted; returns whether anything differed."""
    path = Path(folder["path"])
    if not path.is_dir():
        if path.exists() or path.is_symlink():
            module.fail_json(msg=f"{path} is there and is not a folder: move it away. [ltxops exit 2]")
        if module.check_mode:
            return True
        path.mkdir(parents=True)
        module.set_fs_attributes_if_different(attributes_of(module, folder), False)
        return True
    return bool(module.set_fs_attributes_if_different(attributes_of(module, folder), False))


def attributes_of(module: AnsibleModule, folder: dict[str, Any]) -> dict[str, Any]:
    """Return `folder` in the form that AnsibleModule's own helper takes."""
    return {
        "path": folder["path"],
        "owner": folder["owner"] or None,
        "group": folder["group"] or None,
        "mode": folder["mode"],
        "attributes": None,
        "seuser": None,
        "serole": None,
        "setype": None,
        "selevel": None,
        "secontext": [None] * (4 if module.selinux_mls_enabled() else 3),
    }


def main() -> None:
    """Make every folder of the task."""
    module = AnsibleModule(
        argument_spec={
            "folders": {"type": "list", "elements": "dict", "required": True, "options": FOLDER_OPTIONS}
        },
        supports_check_mode=True,
    )
    made = [folder["path"] for folder in module.params["folders"] if settle(module, folder)]
    module.exit_json(changed=bool(made), made=made)


if __name__ == "__main__":
    main()
