"""A lab's network: a bridge, a cable a host, and address translation to wherever this machine can reach."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path


def ip(*arguments: str, check: bool = True) -> str:
    """Run ip(8) and return what it prints. Raises RuntimeError when it fails, unless told not to check."""
    command = ["ip", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


def nft(rules: str) -> None:
    """Have nft(8) do what `rules` say, all or nothing."""
    done = subprocess.run(["nft", "-f", "-"], input=rules, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise RuntimeError(f"nft failed: {done.stderr.strip()}")


def uplink_mtu() -> int:
    """Return the MTU of the way out, in bytes: larger packets of the hosts would be lost."""
    routes = json.loads(ip("-json", "route", "show", "default") or "[]")
    return int(Path(f"/sys/class/net/{routes[0]['dev']}/mtu").read_text()) if routes else 1500


@dataclass(frozen=True)
class Network:
    """The network of the lab of that number; 198.18.0.0/15 is set aside for test networks (RFC 2544)."""

    number: int

    @property
    def name(self) -> str:
        """Name of the bridge, and of the table with the translation."""
        return f"ltxlab{self.number}"

    def cable(self, host: int) -> str:
        """Name of this machine's end of a host's cable; Linux allows 15 characters."""
        return f"{self.name}h{host}"

    def address(self, host: int) -> str:
        """Address of a host; number 1 is this machine."""
        return f"198.18.{self.number}.{host}"

    @property
    def gateway(self) -> str:
        return self.address(1)

    def up(self) -> None:
        """Make the bridge and the translation; what a killed run has left of them is replaced."""
        self.down()
        ip("link", "add", self.name, "mtu", str(uplink_mtu()), "type", "bridge")
        ip("address", "add", f"{self.gateway}/24", "dev", self.name)
        ip("link", "set", self.name, "up")
        nft(
            f"table ip {self.name} {{\nchain out {{\ntype nat hook postrouting priority srcnat\n"
            f'ip saddr 198.18.{self.number}.0/24 oifname != "{self.name}" masquerade\n}}\n}}\n'
        )

    def plug(self, host: int, pid: int) -> None:
        """Connect the network namespace of process `pid`, which has nothing but an idle loopback."""
        cable, mtu = self.cable(host), str(uplink_mtu())
        self.unplug(host)
        peer = ["type", "veth", "peer", "name", "eth0", "mtu", mtu, "netns", str(pid)]
        ip("link", "add", cable, "mtu", mtu, *peer)
        ip("link", "set", cable, "master", self.name, "up")
        inside = (
            f"link set lo up\naddress add {self.address(host)}/24 dev eth0\n"
            f"link set eth0 up\nroute add default via {self.gateway}\n"
        )
        command = ["nsenter", "--target", str(pid), "--net", "ip", "-batch", "-"]
        subprocess.run(command, input=inside, text=True, check=True, timeout=30)

    def unplug(self, host: int) -> None:
        """Remove a host's cable, if it is there."""
        ip("link", "delete", self.cable(host), check=False)

    def down(self) -> None:
        """Remove everything that has a name of this network."""
        for link in json.loads(ip("-json", "link", "show") or "[]"):
            if link["ifname"] == self.name or link["ifname"].startswith(f"{self.name}h"):
                ip("link", "delete", link["ifname"], check=False)
        nft(f"table ip {self.name}\ndelete table ip {self.name}\n")
