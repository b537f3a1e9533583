"""Scope host: after teardown a bare host is as it was found, over SSH as an operator would do it."""

import json
import os
import re
import subprocess
from pathlib import Path

from tests.integration.bare_host import REPO, BareHost, add_operator, bare_host
from tests.integration.test_over_ssh import Fleet, hub

__all__ = ["hub"]

#: What apt, dpkg and Ansible keep of their own, and the copies that are made of the user database.
LEFT_OUT = re.compile(
    r"/(tmp|var/tmp|var/cache|var/lib/apt|var/lib/dpkg|var/log)(/|$)|/\.ansible"
    r"|/etc/(passwd|group|shadow|gshadow)-$"
)
LISTING = (
    "find / -xdev -printf '%y %m %u:%g %p %l\\n' | LC_ALL=C sort;"
    " find /etc -type f -print0 | LC_ALL=C sort -z | xargs -0 sha1sum"
)


def listing(host: BareHost) -> list[str]:
    """Every file with its mode, owner and link, and the content of every setting."""
    done = host.ssh(LISTING)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if not LEFT_OUT.search(line)]


def play(fleet: Fleet, playbook: str, **settings: object) -> "subprocess.CompletedProcess[str]":
    given = json.dumps({**fleet.settings, **settings})
    command = [str(REPO / ".venv/bin/ansible-playbook"), "-i", str(fleet.inventory), playbook, "-e", given]
    command += ["--vault-password-file", str(fleet.vault_password)]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(REPO / "ansible.cfg")}
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=900)


def test_a_host_is_as_it_was_found(tmp_path: Path, hub: str) -> None:
    with bare_host(tmp_path) as host:
        add_operator(host)
        fleet = Fleet(host, hub)
        before = listing(host)
        refused = play(fleet, "playbooks/teardown.yml")
        assert refused.returncode != 0
        assert "did not provision this host" in refused.stdout.rsplit("PLAY RECAP", 1)[1]
        first = fleet.provision(smoke_cases=["check"])
        assert first.returncode == 0, first.stdout[-3000:]
        assert listing(host) != before
        torn = play(fleet, "playbooks/teardown.yml", teardown_weights=True, teardown_outputs=True)
        assert torn.returncode == 0, torn.stdout[-3000:]
        after = listing(host)
        assert (sorted(set(after) - set(before)), sorted(set(before) - set(after))) == ([], [])
        running = host.ssh("ps axo user,args").stdout
        assert "supervisord" not in running
        assert "/opt/ltxops" not in running
