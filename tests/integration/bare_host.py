"""A bare Debian host for tests: a root file system with sshd, sudo and Python only, in namespaces of its own.

It shares the network of this machine, so that packages and the embedded hub can be reached; its programs need
ports of their own. Everything it mounts is in its own mount namespace and goes with it.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.lab.base import base_file_system, give_package_settings
from tests.support import free_port

REPO = Path(__file__).parents[2]
START = """
mount -t overlay overlay -o lowerdir={base},upperdir={upper},workdir={work} {root}
mount -t proc proc {root}/proc
mount --rbind /dev {root}/dev
mount -t tmpfs tmpfs {root}/run
mkdir -p {root}/run/sshd
exec chroot {root} /usr/sbin/sshd -D -e -p {port} -o ListenAddress=127.0.0.1 -o UsePAM=no
"""


@dataclass
class BareHost:
    """A running bare host: how to reach it, and where its files lie as seen from here."""

    folder: Path
    port: int

    @property
    def files(self) -> Path:
        """What the host has written or was given on top of the base file system."""
        return self.folder / "upper"

    @property
    def key(self) -> Path:
        return self.folder / "key"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def access(self) -> dict[str, Any]:
        """How Ansible reaches it, as variables of an inventory."""
        return {
            "ansible_host": "127.0.0.1",
            "ansible_port": self.port,
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.known_hosts}",
        }

    def ssh(self, command: str, timeout: float = 300) -> "subprocess.CompletedProcess[str]":
        options = [
            "-q",
            "-i",
            str(self.key),
            "-p",
            str(self.port),
            "-o",
            f"UserKnownHostsFile={self.known_hosts}",
        ]
        argv = ["ssh", *options, "root@127.0.0.1", command]
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout)


@contextmanager
def bare_host(folder: Path) -> Iterator[BareHost]:
    """Start a bare host whose files lie in `folder`; everything of it ends with the block."""
    if os.geteuid() != 0:
        pytest.skip("a host in a namespace of its own needs root")
    base = base_file_system()
    host = BareHost(folder, free_port())
    for name in ("upper", "work", "root"):
        (folder / name).mkdir()
    prepare(host)
    script = START.format(
        base=base, upper=host.files, work=folder / "work", root=folder / "root", port=host.port
    )
    with (folder / "sshd.log").open("wb") as log:
        command = [
            "unshare",
            "--mount",
            "--pid",
            "--uts",
            "--ipc",
            "--fork",
            "--kill-child",
            "sh",
            "-euc",
            script,
        ]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for_sshd(host, process)
        yield host
    finally:
        # --kill-child: with unshare goes the first process of the namespace, and with that all others.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def prepare(host: BareHost) -> None:
    """Give the host a key to log in with, a host key known here, and this machine's package settings."""
    ssh_folder = host.files / "root/.ssh"
    ssh_folder.mkdir(parents=True, mode=0o700)
    (host.files / "etc/ssh").mkdir(parents=True)
    host_key = host.files / "etc/ssh/ssh_host_ed25519_key"
    for path in (host.key, host_key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    shutil.copy(host.key.with_suffix(".pub"), ssh_folder / "authorized_keys")
    public = host_key.with_suffix(".pub").read_text()
    host.known_hosts.write_text(f"[127.0.0.1]:{host.port} {public}")
    give_package_settings(host.files)


def add_operator(host: BareHost) -> None:
    """Give the host an ordinary user, `operator`, who logs in with the same key and may use sudo."""
    done = host.ssh(
        "useradd --create-home --gid operator --password '*' --shell /bin/bash operator"
        " && cp -r /root/.ssh /home/operator/"
        " && chown -R operator: /home/operator/.ssh"
        " && echo 'operator ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/operator"
    )
    assert done.returncode == 0, done.stderr


def wait_for_sshd(host: BareHost, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(100):
        if host.ssh("true").returncode == 0:
            return
        assert process.poll() is None, (host.folder / "sshd.log").read_text()
        time.sleep(0.1)
    raise AssertionError((host.folder / "sshd.log").read_text())
