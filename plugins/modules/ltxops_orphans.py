#!/usr/bin/python
"""Ansible module: see whether supervisord runs; if not, stop what outlived the one before."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.ltxops_processes import answers, ours, outlasted, stop

DOCUMENTATION = r"""
module: ltxops_orphans
short_description: See whether supervisord runs, and stop programs whose supervisord was killed
description:
  - A supervisord that is killed leaves its programs running; the next one could not have their ports.
  - Where supervisord answers, nothing is done. One that is still stopping is waited for.
options:
  socket:
    description: Socket of the supervisord that started the programs.
    type: str
    required: true
  nginx_pidfile:
    description: File in which the gateway's nginx keeps its pid.
    type: str
    required: true
author: ["the ltxops maintainers"]
"""

EXAMPLES = r"""
- name: Stop what is left
  ltxops_orphans: {socket: /run/supervisor.sock, nginx_pidfile: /run/ltxops/nginx.pid}
"""

RETURN = r"""
running:
  description: Whether supervisord answers.
  returned: success
  type: bool
pids:
  description: The processes that were stopped.
  returned: success
  type: list
  elements: int
"""

#: Longer than any program of ours may take to stop (stopwaitsecs).
_PATIENCE_SECONDS = 180.0


def main() -> None:
    """Find them, and stop them."""
    module = AnsibleModule(
        argument_spec={
            "socket": {"type": "str", "required": True},
            "nginx_pidfile": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    if answers(module.params["socket"]):
        module.exit_json(changed=False, running=True, pids=[])
    which = (module.params["socket"], module.params["nginx_pidfile"])
    if not module.check_mode and outlasted(module.params["socket"], _PATIENCE_SECONDS):
        module.fail_json(
            msg=f"supervisord on {module.params['socket']} refuses every call and has not ended in "
            f"{_PATIENCE_SECONDS:.0f} s: stop it, and run this again (ltxops exit 1)"
        )
    pids = sorted(ours(*which)) if module.check_mode else stop(*which)
    module.exit_json(changed=bool(pids), running=False, pids=pids)


if __name__ == "__main__":
    main()
