"""Operator tasks over SSH on the hosts of the Ansible inventory: see `fab --list` and docs/operating.md."""

from pathlib import Path

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from ltxops.fleet import remote
from ltxops.fleet.connect import Access
from ltxops.fleet.executor import SECTION
from ltxops.fleet.selection import Selection

PROJECT = Path(__file__).parent
SHARED = {
    "on": "hosts or groups of the inventory, as in ansible-playbook --limit (default: all)",
    "inventory": "the Ansible inventory (default: $LTXOPS_INVENTORY, else that of ansible.cfg)",
    "accept-new": "record the key of a host that is not in known_hosts; a changed one is refused anyway",
}
RECONNECT = {"reconnect": "so many seconds a lost connection is tried again, 0 is never"}


def _selection(c: Context, inventory: str, on: str) -> Selection:
    return Selection(PROJECT, inventory, on, c.config[SECTION]["hosts"])


def _end(code: int) -> None:
    if code:
        raise Exit(code=code)


@task(
    help={
        **SHARED,
        **RECONNECT,
        "program": "whose log",
        "lines": "so many of its last lines first",
        "follow": "go on with what is added (default), or end after the last lines",
    },
)
def logs(
    c: Context,
    program: str = "comfyui",
    lines: str = "10",
    follow: bool = True,
    on: str = "",
    inventory: str = "",
    accept_new: bool = False,
    reconnect: str = "120",
) -> None:
    """Follow a program's log on all chosen hosts at once, until Ctrl-C."""
    chosen, access = _selection(c, inventory, on), Access(c.config, accept_new)
    _end(remote.guarded(lambda: remote.logs(chosen, access, program, lines, follow, reconnect)))


@task(help={**SHARED, "json": "print one JSON object instead of the table"})
def status(
    c: Context, on: str = "", inventory: str = "", accept_new: bool = False, json: bool = False
) -> None:
    """Show what runs on the hosts, and whether it is well; exit 1 if not."""
    chosen, access = _selection(c, inventory, on), Access(c.config, accept_new)
    _end(remote.guarded(lambda: remote.status(chosen, access, json)))


@task(
    help={
        **SHARED,
        "on": "hosts or groups of the inventory, as in ansible-playbook --limit; needed if there are several",
        "program": "which one: comfyui, wrapper, gateway, janitor",
        "timeout": "so many seconds it may take on a host to stop and be well again",
    },
)
def restart(
    c: Context,
    program: str = "",
    on: str = "",
    inventory: str = "",
    accept_new: bool = False,
    timeout: str = "300",
) -> None:
    """Restart a program on one host after the other, each time waiting until it is well."""
    chosen, access = _selection(c, inventory, on), Access(c.config, accept_new)
    _end(remote.guarded(lambda: remote.restart(chosen, access, program, timeout)))


@task(
    help={
        **SHARED,
        **RECONNECT,
        "on": "the host, by its name in the inventory",
        "comfyui-port": "local port for ComfyUI",
        "wrapper-port": "local port for the API wrapper",
    },
)
def tunnel(
    c: Context,
    on: str = "",
    inventory: str = "",
    accept_new: bool = False,
    reconnect: str = "120",
    comfyui_port: str = "18188",
    wrapper_port: str = "18288",
) -> None:
    """Reach ComfyUI and the API wrapper of one host on local ports, until Ctrl-C."""
    chosen, access = _selection(c, inventory, on), Access(c.config, accept_new)
    ports = {"comfyui": comfyui_port, "wrapper": wrapper_port}
    _end(remote.guarded(lambda: remote.tunnel(chosen, access, ports, reconnect)))
