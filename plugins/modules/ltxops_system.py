#!/usr/bin/python
"""Ansible module: which packages, users and groups a Debian host lacks. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
author: ["the ltxops maintainers"]
"""

EXAMPLES = r"""
- name: See what is missing
  ltxops_system: {packages: [git], users: [ltxops], groups: [ltxops], stamp: /opt/ltxops/venv/.installed}
"""

RETURN = r"""
packages:
  description: The packages that are not installed; C(users) and C(groups) likewise.
  returned: always
  type: list
  elements: str
interrupted:
  description: Whether an installation of packages was cut off and left dpkg's journal or policy-rc.d.
  returned: always
  type: bool
installed:
  description: Whether the stamp is there.
  returned: always
  type: bool
"""


#: dpkg's journal, empty unless it was cut off; and what the module apt puts into policy-rc.d while it works.
_JOURNAL = Path("/var/lib/dpkg/updates")
_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = "#!/bin/sh\nexit 101"


def was_cut_off(journal: Path, policy: Path) -> bool:
    """Say whether an installation of packages was cut off, by what it leaves."""
    if journal.is_dir() and any(journal.iterdir()):
        return True
    return policy.is_file() and policy.read_text(errors="replace").strip() == _POLICY_TEXT


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
        },
        supports_check_mode=True,
    )
    packages, users, groups = (module.params[name] for name in ("packages", "users", "groups"))
    listing = ""
    if packages:
        # It ends with 1 where it does not know a package, and lists the others.
        command = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\\n", *packages]
        listing = module.run_command(command)[1]
    lacking: dict[str, Any] = {
        "packages": not_installed(packages, listing),
        "users": [name for name in users if not is_user(name)],
        "groups": [name for name in groups if not is_group(name)],
    }
    lacking["interrupted"] = bool(packages) and was_cut_off(_JOURNAL, _POLICY)
    installed = Path(module.params["stamp"]).exists()
    changed = module.check_mode and (not installed or any(lacking.values()))
    module.exit_json(changed=changed, installed=installed, **lacking)


if __name__ == "__main__":
    main()
