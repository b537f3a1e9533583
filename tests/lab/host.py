"""One host of a lab: a file system of layers, namespaces of its own, a cable, and sshd."""

import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab import processes
from tests.lab.base import give_package_settings
from tests.lab.network import Network

BOOT = Path(__file__).with_name("boot.sh")
#: What a host's first process and all that it starts are given, instead of this machine's environment.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
START_SECONDS = 60.0
#: Answers `nvidia-smi --query-gpu=FIELDS --format=csv,noheader,nounits` for so many GPUs.
NVIDIA_SMI = """#!/bin/sh
# Stands in for NVIDIA's program on a host of a lab, which has no GPU.
for argument in "$@"; do
  case $argument in --query-gpu=*) fields=${{argument#--query-gpu=}} ;; esac
done
for gpu in $(seq 0 {last}); do
  line=
  for field in $(echo "${{fields:-name}}" | tr , ' '); do
    case $field in
      name) value='Lab GPU' ;;
      memory.total) value=24564 ;;
      driver_version) value=570.133.20 ;;
      index) value=$gpu ;;
      *) value=0 ;;
    esac
    line="$line${{line:+, }}$value"
  done
  echo "$line"
done
"""


@dataclass
class Host:
    """A host: its folder on this machine, its number in the lab's network, the layers that it begins with."""

    folder: Path
    number: int
    network: Network
    layers: list[Path]
    key: Path
    known_hosts: Path
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def files(self) -> Path:
        """What the host has written on top of its layers."""
        return self.folder / "upper"

    @property
    def address(self) -> str:
        return self.network.address(self.number)

    @property
    def access(self) -> dict[str, Any]:
        """How Ansible and fab reach it as its operator, as variables of an inventory."""
        return {
            "ansible_host": self.address,
            "ansible_user": "operator",
            "ansible_become": True,
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.known_hosts}",
        }

    def make(self, workspace_mib: int = 0, gpus: int = 0) -> None:
        """Lay out its folder; a workspace of its own size, and an nvidia-smi, where they are asked for."""
        site = self.folder / "site"
        for name in ("upper", "work", "root", "site/etc/ssh", "site/usr/bin"):
            (self.folder / name).mkdir(parents=True)
        shutil.copy(self.key.with_suffix(".pub"), site / "etc/ssh/lab_keys")
        host_key = site / "etc/ssh/ssh_host_ed25519_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host_key], check=True)
        with self.known_hosts.open("a") as known:
            known.write(f"{self.address} {host_key.with_suffix('.pub').read_text()}")
        give_package_settings(site)
        with (site / "etc/hosts").open("a") as names:
            names.write(f"127.0.1.1 {self.name}\n{self.network.gateway} hub.lab\n")
        (site / "etc/hostname").write_text(f"{self.name}\n")
        if workspace_mib:
            image = self.folder / "workspace.img"
            subprocess.run(["truncate", "-s", f"{workspace_mib}M", image], check=True)
            subprocess.run(["/usr/sbin/mkfs.ext4", "-q", "-m", "0", image], check=True)
        if gpus:
            (site / "usr/bin/nvidia-smi").write_text(NVIDIA_SMI.format(last=gpus - 1))
            (site / "usr/bin/nvidia-smi").chmod(0o755)

    def start(self) -> None:
        """Start it, and return when its sshd answers; raises RuntimeError with its log when that fails."""
        layers = ":".join(str(layer) for layer in self.layers)
        spaces = ["--mount", "--pid", "--uts", "--ipc", "--net", "--fork", "--kill-child"]
        command = ["unshare", *spaces, "sh", str(BOOT), str(self.folder), layers, self.name]
        with (self.folder / "boot.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self._process.stdin and self._process.stdout
        with self._process.stdin as answer, self._process.stdout as said:
            if said.readline() == b"unshared\n":
                self.network.plug(self.number, self._process.pid)
                answer.write(b"plugged\n")
        self._wait_for_sshd(self._process)

    def _wait_for_sshd(self, process: "subprocess.Popen[bytes]") -> None:
        give_up = time.monotonic() + START_SECONDS
        while self.ssh("true", timeout=START_SECONDS).returncode != 0:
            if process.poll() is not None or time.monotonic() > give_up:
                log = (self.folder / "boot.log").read_text()[-2000:]
                raise RuntimeError(f"{self.name} does not answer at {self.address}:\n{log}")
            time.sleep(0.05)

    def runs(self) -> bool:
        return bool(processes.naming(lambda word: word == str(self.folder)))

    def stop(self) -> None:
        """End it as a power cut would: every process at once; what was written stays."""
        # With the first process of its PID namespace go all others, and with them its mounts.
        processes.end(lambda word: word == str(self.folder))
        if self._process is not None:
            self._process.wait()
            self._process = None
        self.network.unplug(self.number)

    def ssh(self, command: str, timeout: float = 300) -> "subprocess.CompletedProcess[str]":
        """Run a command on it as root."""
        options = ["-q", "-i", str(self.key), "-o", f"UserKnownHostsFile={self.known_hosts}"]
        options += ["-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]
        argv = ["ssh", *options, f"root@{self.address}", command]
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout)
