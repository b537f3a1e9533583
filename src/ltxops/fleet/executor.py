"""Gives a task the hosts of `fab -H` as one list.

Fabric by itself calls the task once a host, one after another; a log is followed on all of them at once.
fabric.yaml names this class.
"""

from typing import Any

from fabric import Executor as FabricExecutor

#: Where a task finds the hosts in its configuration.
SECTION = "ltxops"


class Executor(FabricExecutor):
    """Runs the tasks of fabfile.py."""

    def expand_calls(self, calls: Any, apply_hosts: bool = True) -> Any:
        """Keep the hosts aside, and each call single."""
        hosts = [host.strip() for host in (self.core[0].args.hosts.value or "").split(",")]
        self.config[SECTION] = {"hosts": [host for host in hosts if host]}
        return super().expand_calls(calls, apply_hosts=False)
