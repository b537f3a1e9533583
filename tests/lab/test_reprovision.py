"""A provisioned host: started again, provisioned again, with one variable changed, and one role at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.lab.base import REPO
from tests.lab.control import Control, Outcome, programs
from tests.lab.host import Host
from tests.lab.lab import Lab

ALL = {"comfyui", "gateway", "janitor", "watchdog", "wrapper"}
LORAS = "/workspace/ComfyUI/models/loras"
#: What is changed, and which programs are started again for it.
CHANGES: list[tuple[dict[str, Any], set[str]]] = [
    ({"comfyui_embedded_seconds_per_step": 0.001}, {"comfyui"}),
    ({"supervisor_hang_seconds": 90}, {"watchdog"}),
    ({"cleanup_ttl_enabled": True, "cleanup_ttl_age": "20m"}, {"janitor"}),
    ({"gateway_max_json_mib": 16}, {"gateway"}),
    # The watchdog reads which profile the host has, so that `ltxops doctor` and `fab status` can tell.
    ({"models_profile": "control"}, {"watchdog"}),
]


class Provisioned:
    """A host from the snapshot, and the changes that were made to it so far."""

    def __init__(self, lab: Lab, host: Host) -> None:
        self.host = host
        self.control = Control(lab)

    def again(self, *arguments: str) -> Outcome:
        outcome = self.control.provision(*arguments)
        assert outcome.code == 0, outcome.output[-3000:]
        return outcome

    def restarted_by(self, **change: Any) -> set[str]:
        """Provision with a change that stays; returns the programs that do not run as before."""
        before = programs(self.host)
        self.control.settings.update(change)
        self.again()
        after = programs(self.host)
        assert all(state.startswith("RUNNING") for state in after.values()), after
        return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


@pytest.fixture(scope="module")
def provisioned(new_lab: Callable[[], Lab], provisioned_layers: list[Path]) -> Provisioned:
    lab = new_lab()
    return Provisioned(lab, lab.add("gpu-1", layers=provisioned_layers))


def test_what_was_provisioned_comes_back_when_the_host_is_started_again(provisioned: Provisioned) -> None:
    waited = provisioned.host.ssh(
        "/opt/ltxops/venv/bin/ltxops services wait --config /etc/ltxops/host.json --timeout 120"
    )
    assert waited.returncode == 0, waited.stdout + waited.stderr
    assert programs(provisioned.host).keys() == ALL


def test_the_second_run_changes_nothing(provisioned: Provisioned) -> None:  # R47
    before = programs(provisioned.host)
    again = provisioned.again()
    assert (again.recap["gpu-1"]["changed"], again.changed("gpu-1")) == (0, [])
    assert programs(provisioned.host) == before


def roles() -> list[str]:
    play = yaml.safe_load((REPO / "playbooks/provision.yml").read_text())[0]
    return sorted({tag for role in play["roles"] for tag in role["tags"]} - {"always"})


@pytest.mark.parametrize("tag", roles())
def test_every_role_works_alone_and_changes_nothing(provisioned: Provisioned, tag: str) -> None:
    before = programs(provisioned.host)
    alone = provisioned.again("--tags", tag)
    assert alone.changed("gpu-1") == []
    assert programs(provisioned.host) == before


@pytest.mark.parametrize(("change", "restarted"), CHANGES, ids=lambda it: next(iter(it)))
def test_one_changed_variable_restarts_what_depends_on_it(
    provisioned: Provisioned, change: dict[str, Any], restarted: set[str]
) -> None:  # R33
    assert provisioned.restarted_by(**change) == restarted


def test_a_profile_that_adds_loras_has_added_them(provisioned: Provisioned) -> None:
    listed = provisioned.host.ssh(f"ls {LORAS}").stdout.split()
    assert "ltx-2-19b-lora-camera-control-jib-up.safetensors" in listed
    assert len(listed) > 8


def test_after_all_changes_a_run_changes_nothing(provisioned: Provisioned) -> None:  # R47
    assert provisioned.again().changed("gpu-1") == []
