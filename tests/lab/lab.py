"""A lab: hosts on one network with a hub of their own, made in a folder and taken down by its name."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab import processes, registry
from tests.lab.base import REPO, base_file_system
from tests.lab.host import Host
from tests.lab.network import Network

HUB_PORT = 8999
MANIFEST = REPO / "inventory/demo/models.yaml"
NEEDED = {
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "nft": "nftables",
    "unshare": "util-linux",
    "mkfs.ext4": "e2fsprogs",
    "ssh": "openssh-client",
}
#: What turns a host of a lab into a video host: the stand-ins in the place of a GPU and of the real weights.
SETTINGS: dict[str, Any] = {
    "comfyui_engine": "embedded",
    "preflight_gpu_required": False,
    "preflight_min_ram_gib": 1,
    "models_manifest": str(MANIFEST),
    "models_profile": "vast",
    # A name, not an address: hosts of another lab begin with what hosts of this one have become.
    "models_hub": f"http://hub.lab:{HUB_PORT}",
    "models_reserve": "64MiB",
}


def why_not() -> str:
    """Return why no lab can run on this machine; empty where one can."""
    if os.geteuid() != 0:
        return "a lab needs root: namespaces, mounts and address translation"
    missing = [package for name, package in NEEDED.items() if not shutil.which(name)]
    return f"a lab needs {', '.join(missing)}: apt-get install {' '.join(missing)}" if missing else ""


class Lab:
    """One lab; `hosts` are those that were added, running or not."""

    def __init__(self, entry: registry.Entry) -> None:
        """Take up a lab that is registered and made."""
        self.entry = entry
        self.folder = entry.folder
        self.network = Network(entry.number)
        self.hosts: dict[str, Host] = {}
        self._hub: subprocess.Popen[bytes] | None = None
        listed = self.folder / "hosts.json"
        for name, host in json.loads(listed.read_text()).items() if listed.exists() else ():
            self.hosts[name] = self._host(name, host["number"], [Path(layer) for layer in host["layers"]])

    @classmethod
    def make(cls, folder: Path, *, held: bool) -> "Lab":
        """Make a lab without hosts; one that a killed run left in this folder is taken down first."""
        for entry in registry.entries():
            if entry.folder == folder:
                take_down(entry)
        make_empty(folder)
        entry = registry.register(folder, held=held)
        try:
            (folder / "known_hosts").touch()
            key = folder / "key"
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
            lab = cls(entry)
            lab.network.up()
            lab._serve_hub()
            lab._list()
        except BaseException:
            take_down(entry)
            raise
        return lab

    def _host(self, name: str, number: int, layers: list[Path]) -> Host:
        folder = self.folder / "hosts" / name
        return Host(folder, number, self.network, layers, self.folder / "key", self.folder / "known_hosts")

    def add(
        self, name: str, *, layers: list[Path] | None = None, workspace_mib: int = 0, gpus: int = 0
    ) -> Host:
        """Add a host and start it: a bare one, or one that begins with the layers of a snapshot."""
        number = max((host.number for host in self.hosts.values()), default=1) + 1
        host = self._host(name, number, layers or [base_file_system()])
        host.make(workspace_mib, gpus)
        self.hosts[name] = host
        self._list()
        host.start()
        return host

    def _list(self) -> None:
        hosts = {
            name: {"number": host.number, "layers": [str(layer) for layer in host.layers]}
            for name, host in self.hosts.items()
        }
        (self.folder / "hosts.json").write_text(json.dumps(hosts))

    def snapshot(self, host: Host, where: Path) -> list[Path]:
        """Stop a host and keep what it has become under `where`; returns the layers for new hosts."""
        host.stop()
        host.files.rename(where)
        shutil.rmtree(host.folder / "work")
        for name in ("upper", "work"):
            (host.folder / name).mkdir()
        host.layers = [where, *host.layers]
        self._list()
        return host.layers

    def inventory(self) -> dict[str, Any]:
        """Return an inventory of the hosts, with the settings that provision them."""
        access = {name: host.access for name, host in self.hosts.items()}
        return {"ltx_hosts": {"hosts": access, "vars": SETTINGS}}

    def _serve_hub(self) -> None:
        """Start the embedded hub where the hosts find it, and wait until it serves."""
        log = self.folder / "hub.log"
        command = [str(Path(sys.executable).with_name("ltxops")), "embedded", "hub"]
        command += ["--manifest", str(MANIFEST), "--root", str(self.folder / "hub")]
        command += ["--host", self.network.gateway, "--port", str(HUB_PORT)]
        with log.open("wb") as stream:
            self._hub = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
        while "http://" not in log.read_text():
            if self._hub.poll() is not None:
                raise RuntimeError(f"the hub of the lab has ended:\n{log.read_text()}")
            time.sleep(0.05)

    def down(self) -> None:
        """End everything of the lab and remove its folder."""
        take_down(self.entry)
        for host in self.hosts.values():
            host.stop()
        if self._hub is not None:
            self._hub.wait()


def make_empty(folder: Path) -> None:
    """Make the folder of a lab; one from before this machine was started again is removed.

    Raises RuntimeError when something else is in it: it would go with the lab.
    """
    if (folder / "known_hosts").exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise RuntimeError(f"{folder} has something in it that is no lab: choose another folder")


def take_down(entry: registry.Entry) -> None:
    """End and remove whatever there is of a lab, by its names alone: its maker may have been killed."""
    processes.end(lambda word: f"{entry.folder}/" in word)
    Network(entry.number).down()
    if entry.folder.exists():
        shutil.rmtree(entry.folder)
    registry.forget(entry)


@contextmanager
def running_lab(folder: Path) -> Iterator[Lab]:
    """A lab for the time of the block."""
    lab = Lab.make(folder, held=True)
    try:
        yield lab
    finally:
        lab.down()
