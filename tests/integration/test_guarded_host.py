"""Scope host under guard: who runs as whom, what is open to others, and what the doctor says of it."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.bare_host import add_operator, bare_host
from tests.integration.test_over_ssh import Fleet, hub

from ltxops.upkeep.doctor.sockets import parse

__all__ = ["hub"]
DOCTOR = "/opt/ltxops/venv/bin/ltxops doctor --json"


def open_to_others() -> set[int]:
    """Ports that can be reached from outside; the bare host shares this machine's network."""
    tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
    return {it.port for table in tables for it in parse(table) if not it.on_loopback}


class Guarded(Fleet):
    """A provisioned host, and which ports of others were open to others around it."""

    before: set[int]

    def doctor(self) -> dict[str, str]:
        """The checks that are not ok, and what they say."""
        result = json.loads(self.host.ssh(DOCTOR).stdout)
        assert len(result["checks"]) >= 14
        return {check["name"]: check["detail"] for check in result["checks"] if not check["ok"]}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, hub: str) -> Iterator[Guarded]:
    with bare_host(tmp_path_factory.mktemp("host")) as host:
        add_operator(host)
        fleet = Guarded(host, hub)
        fleet.before = open_to_others()
        fleet.settings["supervisor_open_ports"] = sorted({22, *fleet.before})
        first = fleet.provision()
        assert first.returncode == 0, first.stdout[-3000:]
        yield fleet


def test_the_doctor_finds_nothing(guarded: Guarded) -> None:
    assert guarded.doctor() == {}


def test_one_port_more_is_open_to_others(guarded: Guarded) -> None:  # R11
    others = guarded.before | {guarded.host.port}
    assert {*guarded.ports.values()} & open_to_others() == {guarded.ports["gateway_port"]}
    listener = "python3 -c 'import socket,time; s=socket.create_server((\"0.0.0.0\", 0)); time.sleep(60)'"
    guarded.host.ssh(f"nohup {listener} >/dev/null 2>&1 &")
    found = guarded.doctor()
    guarded.host.ssh("kill $(ps axo pid,args | awk '/create_server/ && !/awk/ {print $1}')")
    assert "sockets" in found
    assert "python3" in found["sockets"] or "0.0.0.0" in found["sockets"], others


def test_without_the_kernels_table_the_check_fails(guarded: Guarded) -> None:  # R11
    line = f"unshare --mount sh -c 'mount -t tmpfs none /proc && {DOCTOR}'"
    result = json.loads(guarded.host.ssh(line).stdout)
    wrong = {check["name"]: check["detail"] for check in result["checks"] if not check["ok"]}
    assert "could not run" in wrong["sockets"]


def test_comfyui_can_gain_no_privileges_and_reach_no_secret(guarded: Guarded) -> None:  # R13
    pid = guarded.host.ssh("supervisorctl pid comfyui").stdout.strip()
    status = dict(
        line.split(":\t", 1)
        for line in guarded.host.ssh(f"cat /proc/{pid}/status").stdout.splitlines()
        if ":\t" in line
    )
    assert (status["NoNewPrivs"], status["CapEff"].strip("0"), status["Umask"]) == ("1", "", "0007")
    environment = guarded.host.ssh(f"tr '\\0' '\\n' < /proc/{pid}/environ").stdout
    assert "S3_" not in environment
    for path in (
        "/etc/ltxops/token",
        "/etc/ltxops/wrapper.env",
        "/var/lib/ltxops/wrapper",
        "/run/supervisor.sock",
    ):
        read = guarded.host.ssh(f"runuser -u comfy -- test -r {path}")
        assert read.returncode != 0, path


def test_a_weight_that_comfyui_may_write_is_found(guarded: Guarded) -> None:
    guarded.host.ssh("chmod g+w /workspace/ComfyUI/models/checkpoints")
    found = guarded.doctor()
    guarded.host.ssh("chmod g-w /workspace/ComfyUI/models/checkpoints")
    assert "comfy may change /workspace/ComfyUI/models/checkpoints" in found["privileges"]


@pytest.mark.parametrize("flags", [["--listen", "0.0.0.0"], ["--enable-cors-header"]])
def test_what_would_open_the_host_is_refused(guarded: Guarded, flags: list[str]) -> None:  # R13
    refused = guarded.provision("--tags", "preflight", comfyui_flags=flags)
    assert refused.returncode == 2
    assert "preflight_accepted_risks" in refused.stdout
    assert "[ltxops exit 2]" in refused.stdout


def test_a_version_with_holes_is_warned_of_and_refused_where_strict(guarded: Guarded) -> None:  # R12
    old = {"comfyui_engine": "git", "comfyui_version": "v0.27.0", "comfyui_nodes": []}
    warned = guarded.provision("--tags", "preflight", **old)
    assert "CVE-2026-56670" in warned.stdout + warned.stderr
    strict = guarded.provision("--tags", "preflight", **old, preflight_strict=True)
    assert strict.returncode == 2
    assert "CVE-2026-56670" in strict.stdout.rsplit("PLAY RECAP", 1)[1]


def test_a_token_is_made_and_revoked_on_the_host(guarded: Guarded) -> None:
    ltxops = "/opt/ltxops/venv/bin/ltxops"
    value = guarded.host.ssh(f"{ltxops} token new --name client --show").stdout.strip()
    url = f"http://127.0.0.1:{guarded.ports['gateway_port']}/queue"

    def status() -> str:
        command = [
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-H",
            f"Authorization: Bearer {value}",
        ]
        return subprocess.run([*command, url], capture_output=True, text=True, timeout=30).stdout

    assert status() == "200"
    assert guarded.host.ssh("runuser -u comfy -- cat /etc/ltxops/tokens/client").returncode != 0
    assert guarded.host.ssh(f"{ltxops} token revoke --name client").returncode == 0
    assert status() == "401"
