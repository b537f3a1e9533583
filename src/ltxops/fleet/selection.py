"""Which hosts a task is for: those of `-H`, those that `--on` matches in the inventory, or all of it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ltxops.errors import BadInput
from ltxops.fleet.inventory import Inventory, Target, read

#: Names the inventory where the task is not told one.
VARIABLE = "LTXOPS_INVENTORY"


@dataclass(frozen=True)
class Selection:
    """What the operator said. `hosts` are those of `-H`."""

    project: Path
    inventory: str = ""
    on: str = ""
    hosts: Sequence[str] = ()

    @property
    def explicit(self) -> bool:
        """Tell whether the operator has named hosts or groups."""
        return bool(self.on or self.hosts)


def choose(selection: Selection) -> list[Target]:
    """Return the hosts, at least one. Raises BadInput."""
    source = selection.inventory or os.environ.get(VARIABLE, "")
    if selection.hosts and selection.on:
        raise BadInput(
            f"both -H ({','.join(selection.hosts)}) and --on ({selection.on}) name hosts: give one of them"
        )
    if not selection.hosts:
        return _usable(list(read(selection.project, source, selection.on or "all").values()))
    known = read(selection.project, source, "all")
    return _usable([lookup(known, host) for host in dict.fromkeys(selection.hosts)])


def only(targets: Sequence[Target], why: str) -> Target:
    """Return the one host that was chosen. Raises BadInput, which says why there must be only one."""
    if len(targets) > 1:
        names = ", ".join(target.name for target in targets)
        raise BadInput(f"{why}: choose one of {names} with --on")
    return targets[0]


def lookup(known: Inventory, host: str) -> Target | BadInput:
    """Return the target for `[user@]host[:port]`: as the inventory knows it, else as it is written."""
    user, _, rest = host.rpartition("@")
    name, colon, port = rest.rpartition(":") if rest.count(":") == 1 else (rest, "", "")
    if colon and not (port.isdecimal() and 0 < int(port) < 65536):
        return BadInput(f"-H {host}: {port!r} is no port")
    # Several hosts behind one address differ by their port.
    found = known.get(host) or known.get(name) or Target(rest if port else name, name)
    if isinstance(found, BadInput):
        return found
    return replace(found, user=user or found.user, port=int(port) if port else found.port)


def _usable(found: Sequence[Target | BadInput]) -> list[Target]:
    """Return the targets. Raises the first thing that is wrong with one: nothing is done by halves."""
    targets = []
    for one in found:
        if isinstance(one, BadInput):
            raise one
        targets.append(one)
    return targets
