#!/usr/bin/python
"""Ansible module: stop the programs that run from folders which are about to be removed."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.ltxops_processes import end, running_from

DOCUMENTATION = r"""
module: ltxops_stop
short_description: Stop what runs from our folders
description:
  - Stops programs that lie in the given folders, such as a download in the background, and the gateway's
    nginx.
  - Unlike M(ltxops_orphans) it leaves alone what else the same supervisord has started.
options:
  folders:
    description: Folders of the programs.
    type: list
    elements: path
    required: true
  nginx_pidfile:
    description: File in which the gateway's nginx keeps its pid.
    type: str
    required: true
author: ["the ltxops maintainers"]
"""

EXAMPLES = r"""
- name: Stop what still runs
  ltxops_stop: {folders: [/opt/ltxops], nginx_pidfile: /run/ltxops/nginx.pid}
"""

RETURN = r"""
pids:
  description: The processes that were stopped.
  returned: success
  type: list
  elements: int
"""


def main() -> None:
    """Find them, and stop them."""
    module = AnsibleModule(
        argument_spec={
            "folders": {"type": "list", "elements": "path", "required": True},
            "nginx_pidfile": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )

    def find() -> set[int]:
        found: set[int] = running_from(module.params["folders"], module.params["nginx_pidfile"])
        return found

    pids = sorted(find()) if module.check_mode else end(find)
    module.exit_json(changed=bool(pids), pids=pids)


if __name__ == "__main__":
    main()
