"""Who listens where: read from the kernel's own tables, so that no scanner has to be installed."""

import ipaddress
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ltxops.upkeep.doctor.checks import Check, from_faults
from ltxops.upkeep.doctor.settings import Settings

_LISTEN = "0A"  # TCP_LISTEN in the kernel's include/net/tcp_states.h


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket."""

    address: str
    port: int
    inode: str

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.address).is_loopback


def parse(table: str) -> list[Listener]:
    """Read /proc/net/tcp or tcp6. Raises ValueError for a table of another shape."""
    header, *lines = table.splitlines()
    if "local_address" not in header or "inode" not in header:
        raise ValueError("the kernel's table of sockets has another shape")
    rows = [line.split() for line in lines]
    return [_listener(row[1], row[9]) for row in rows if row[3] == _LISTEN]


def _listener(local: str, inode: str) -> Listener:
    packed, port = local.rsplit(":", 1)
    # Words of 32 bits, each in the byte order of the machine.
    words = [bytes.fromhex(packed[start : start + 8])[::-1] for start in range(0, len(packed), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return Listener(str(mapped or address), int(port, 16), inode)


def judge(listeners: list[Listener], allowed: set[int], holders: dict[str, str], only: set[int]) -> list[str]:
    """Return a sentence for each socket that should not be reachable from outside.

    `allowed` are ports, `holders` names of processes by inode; with `only`, no other port counts.
    """
    found = {
        f"{holders.get(it.inode, 'a process that cannot be seen')} listens on {it.address} port {it.port}"
        for it in listeners
        if not it.on_loopback
        and it.port not in allowed
        and not holders.get(it.inode, "").startswith("sshd")
        and (not only or it.port in only)
    }
    return sorted(found)


def check(settings: Settings) -> Check:
    """Only the gateway, sshd and declared ports are reachable from outside."""
    listeners = [it for name in ("tcp", "tcp6") for it in _table(name)]
    gateway = {_port(it.address) for it in settings.host.programs if it.name == "gateway"}
    only = set() if settings.is_ours else {_port(it.address) for it in settings.host.programs}
    faults = judge(listeners, gateway | set(settings.open_ports), _holders(), only - {0})
    return from_faults(
        "sockets",
        faults,
        f"{len(listeners)} listening sockets, none open to others but the gateway, sshd and declared ports",
        "stop it or bind it to 127.0.0.1; a port that must be open is declared in supervisor_open_ports",
    )


def _table(name: str) -> list[Listener]:
    path = Path("/proc/self/net") / name
    # Without IPv6 there is no tcp6; without tcp nothing can be said, and reading it fails.
    return parse(path.read_text()) if name == "tcp" or path.exists() else []


def _holders() -> dict[str, str]:
    holders: dict[str, str] = {}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):
            name = (folder.parent / "comm").read_text().strip()
            for descriptor in folder.iterdir():
                with suppress(OSError):
                    target = str(descriptor.readlink())
                    if target.startswith("socket:["):
                        holders[target[8:-1]] = f"{name} (pid {folder.parent.name})"
    return holders


def _port(address: str) -> int:
    digits = address.rpartition(":")[2]
    return int(digits) if digits.isdigit() else 0
