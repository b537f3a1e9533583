"""Eight hosts at once, of which one has no room and one is lost in the middle."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.lab.control import Control
from tests.lab.lab import Lab
from tests.lab.network import ip

GOOD = [f"gpu-{number}" for number in range(1, 7)]
PROOF = "/var/lib/ltxops/smoke/proof/report.json"
#: Every sshd of a host, also the one that this goes through.
END_SSHD = "for stat in $(grep -lsx sshd /proc/[0-9]*/comm); do kill -KILL $(basename $(dirname $stat)); done"


@pytest.fixture(scope="module")
def lab(new_lab: Callable[[], Lab], provisioned_layers: list[Path]) -> Lab:
    """Hosts that were provisioned under another name: eight bare ones would take two cores too long."""
    lab = new_lab()
    for name in GOOD:
        lab.add(name, layers=provisioned_layers)
    lab.add("full", layers=provisioned_layers, workspace_mib=64)
    lab.add("lost", layers=provisioned_layers)
    return lab


def test_six_of_eight_pass_and_two_are_named_with_the_reason(lab: Lab) -> None:  # R49
    for name in GOOD:
        assert lab.hosts[name].ssh(f"rm {PROOF}").returncode == 0
    run = Control(lab).begin(supervisor_hang_seconds=90)
    run.until_task("gateway :")
    lab.hosts["lost"].ssh(END_SSHD)
    outcome = run.end()
    assert outcome.code == 4, outcome.output[-3000:]
    bad = {name for name, counts in outcome.recap.items() if counts["failed"] or counts["unreachable"]}
    assert bad == {"full", "lost"}, outcome.output[-3000:]
    full, lost = outcome.closing[-2:]
    assert full.startswith("full: failed at 'preflight : ")
    assert "GiB are lacking" in full
    assert "[ltxops exit 4]" in full
    assert lost.startswith("lost: unreachable at '")
    assert "Connection refused" in lost or "closed" in lost or "reset" in lost, lost
    for name in GOOD:
        report = json.loads(lab.hosts[name].ssh(f"cat {PROOF}").stdout)
        assert all(case["ok"] for case in report["cases"]), (name, report)


def test_a_host_that_falls_silent_is_given_up(lab: Lab) -> None:  # R49
    # Long enough to be cut off in the middle of it. Ansible names a task with its first result: ask the host.
    run = Control(lab).begin(hosts=["gpu-1", "gpu-2"], comfyui_embedded_seconds_per_step=2)
    lost = lab.hosts["gpu-2"]
    run.until(lambda: lost.ssh("grep -qs -e '[-]-deadline' /proc/[0-9]*/cmdline").returncode == 0)
    ip("link", "set", lab.network.cable(lost.number), "down")
    outcome = run.end()
    assert outcome.code == 4, outcome.output[-3000:]
    assert outcome.recap["gpu-1"]["failed"] == 0
    assert outcome.closing[-1].startswith("gpu-2: unreachable at 'smoke : Prove the host with a generation'")
