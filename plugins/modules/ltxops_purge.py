#!/usr/bin/python
"""Ansible module: remove Debian packages that were installed for us, and nothing that somebody else needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: ltxops_purge
short_description: Remove the packages that were not there before
description:
  - Of the given packages, removes with their configuration those that are not in the list of what was there
    before, and what was installed for them alone.
  - Where a package that somebody has installed since depends on one of them, all stay.
options:
  packages:
    description: The packages that were asked for.
    type: list
    elements: str
    required: true
  found:
    description: File with the names of the packages that were there before, one a line.
    type: path
    required: true
author: ["the ltxops maintainers"]
"""

EXAMPLES = r"""
- name: Remove the packages
  ltxops_purge: {packages: [nginx, supervisor], found: /opt/ltxops/found/packages}
"""

RETURN = r"""
removed:
  description: The packages that were removed.
  returned: success
  type: list
  elements: str
needed_by:
  description: Packages of others that need them, because of which all were left.
  returned: success
  type: list
  elements: str
"""


class Plan(NamedTuple):
    """What to remove, or on whose account nothing is."""

    remove: set[str]
    needed_by: set[str]


def plan(ours: set[str], alone: set[str], with_leftovers: set[str], found: set[str]) -> Plan:
    """Decide by what apt says would go with `ours`: as it is, and with what nobody needs any more."""
    strangers = alone - ours
    if strangers:
        return Plan(set(), strangers)
    return Plan(ours | (with_leftovers - found), set())


def parse_simulation(text: str) -> set[str]:
    """Return the packages that `apt-get --simulate` says it would remove (`Remv NAME …`, `Purg NAME …`)."""
    return set(re.findall(r"^(?:Remv|Purg) ([^\s:]+)", text, re.MULTILINE))


def simulate(module: AnsibleModule, *arguments: str) -> set[str]:
    """Return what `apt-get purge` would remove."""
    _, text, _ = module.run_command(["apt-get", "--simulate", "purge", *arguments], check_rc=True)
    return parse_simulation(text)


def installed(module: AnsibleModule) -> set[str]:
    """Return the names of all packages that are installed."""
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n"]
    _, text, _ = module.run_command(query, check_rc=True)
    return set(re.findall(r"^installed (\S+)", text, re.MULTILINE))


def main() -> None:
    """Look, decide, remove."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "required": True},
            "found": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    found = set(Path(module.params["found"]).read_text().split())
    ours = (set(module.params["packages"]) & installed(module)) - found
    decided = Plan(set(), set())
    if ours:
        names = sorted(ours)
        alone, with_leftovers = simulate(module, *names), simulate(module, "--auto-remove", *names)
        decided = plan(ours, alone, with_leftovers, found)
    if decided.remove and not module.check_mode:
        command = ["apt-get", "--quiet", "--yes", "purge", *sorted(decided.remove)]
        module.run_command(command, check_rc=True)
    module.exit_json(
        changed=bool(decided.remove), removed=sorted(decided.remove), needed_by=sorted(decided.needed_by)
    )


if __name__ == "__main__":
    main()
