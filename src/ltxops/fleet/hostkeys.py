"""Which host key is accepted: one that known_hosts holds; a new one only when asked for; a changed one never.

Fabric by itself takes any key of any host.
"""

import os
import threading
from pathlib import Path
from typing import Any

from paramiko import SSHClient
from paramiko.ssh_exception import BadHostKeyException

from ltxops.errors import AccessDenied

_writing = threading.Lock()


class UnknownHostKey(Exception):
    """The host's key is in no known_hosts file."""


class KnownHosts:
    """What a connection does with a host key: a policy of paramiko's.

    `files` are as in ssh's UserKnownHostsFile; new keys are added to the first one.
    """

    def __init__(self, name: str, files: list[Path], accept_new: bool) -> None:
        self._name = name
        self._files = files
        self._accept_new = accept_new

    def guard(self, client: SSHClient) -> None:
        """Make the client know the keys of the files, and ask this policy about a host that is in none."""
        for file in self._files:
            if file.is_file():
                client.load_system_host_keys(str(file))
        client.set_missing_host_key_policy(self)

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        """Record the key of a new host where that was asked for. Raises UnknownHostKey otherwise."""
        if not self._accept_new:
            raise UnknownHostKey(
                f"{self._name}: the host key of {hostname} ({key.get_name()} {key.fingerprint}) is not in "
                f"{_names(self._files)}: compare it with the host's own, then use --accept-new to record it"
            )
        file = self._files[0]
        with _writing:
            if file.exists() and not file.is_file():
                return  # /dev/null: nothing is to be remembered
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "a+b") as known:
                known.seek(0)
                separator = b"" if known.read()[-1:] in (b"", b"\n") else b"\n"
                known.write(separator + f"{hostname} {key.get_name()} {key.get_base64()}\n".encode())

    def changed(self, error: BadHostKeyException, port: int) -> AccessDenied:
        """Say that a known host has shown another key."""
        entry = error.hostname if port == 22 else f"[{error.hostname}]:{port}"
        seen, expected = (f"{key.get_name()} {key.fingerprint}" for key in (error.key, error.expected_key))
        return AccessDenied(
            f"{self._name}: the host key of {entry} has changed ({seen} instead of {expected}), so nothing "
            "was sent to it: either the host was installed anew, then remove the old key with "
            f"`ssh-keygen -R '{entry}'`, or somebody stands in between"
        )


def _names(files: list[Path]) -> str:
    return " or ".join(str(file) for file in files)
