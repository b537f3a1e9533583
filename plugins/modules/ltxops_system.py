#!/usr/bin/python
"""Ansible module: which packages, users and groups a Debian host lacks. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.ltxops_accounts import is_group, is_user

DOCUMENTATION = r"""
module: ltxops_system
short_description: See which packages, users and groups a host lacks
description:
  - Looks, in one run and without the package manager, so that a host that lacks nothing is passed by quickly.
  - In check mode what is missing counts as a change, since a run that is no check would bring it.
options:
  packages:
    description: >-
      Debian packages; one with a version or a pattern always counts as missing, as only apt can judge it.
    type: list
    elements: str
    default: []
  users:
    description: Names of users.
    type: list
    elements: str
    default: []
  groups:
    description: Names of groups.
    type: list
    elements: str
    default: []
  stamp:
    description: A file that is there when the ltxops package is installed as it should be.
    type: path
    required: true
  unfinished:
    description: A file that is there while packages are being installed, also after that was cut off.
    type: path
    required: true
author: ["the ltxops maintainers"]
"""

EXAMPLES = r"""
- name: See what is missing
  ltxops_system:
    packages: [git]
    users: [ltxops]
    stamp: /opt/ltxops/venv/.installed
    unfinished: /var/lib/ltxops/packages-unfinished
"""

RETURN = r"""
packages:
  description: The packages that are not installed; C(users) and C(groups) likewise.
  returned: always
  type: list
  elements: str
system:
  description: Whether any of these is missing, or an install was cut off.
  returned: always
  type: bool
installed:
  description: Whether the stamp is there.
  returned: always
  type: bool
"""


def not_installed(wanted: Iterable[str], listing: str) -> list[str]:
    """Return what of `wanted` is not installed.

    `listing` is from `dpkg-query --show --showformat='${Package} ${db:Status-Status}\\n'` (dpkg-query(1)).
    """
    lines = (line.split() for line in listing.splitlines())
    installed = {words[0] for words in lines if words[1:] == ["installed"]}
    return [name for name in wanted if name not in installed]


def main() -> None:
    """Look at everything the task names."""
    module = AnsibleModule(
        argument_spec={
            **{
                name: {"type": "list", "elements": "str", "default": []}
                for name in ("packages", "users", "groups")
            },
            "stamp": {"type": "path", "required": True},
            "unfinished": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    packages, users, groups = (module.params[name] for name in ("packages", "users", "groups"))
    listing = ""
    if packages:
        # It ends with 1 where it does not know a package, and lists the others.
        command = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\\n", *packages]
        listing = module.run_command(command)[1]
    lacking = {
        "packages": not_installed(packages, listing),
        "users": [name for name in users if not is_user(name)],
        "groups": [name for name in groups if not is_group(name)],
    }
    installed = Path(module.params["stamp"]).exists()
    system = any(lacking.values()) or Path(module.params["unfinished"]).exists()
    changed = module.check_mode and (not installed or system)
    module.exit_json(changed=changed, installed=installed, system=system, **lacking)


if __name__ == "__main__":
    main()
