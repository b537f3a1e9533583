"""`fab status` and `fab restart` against real sshds and supervisords."""

import getpass
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.fleet_support import SERVER, Fleet, free_port, until

#: Serves until its folder says that it is broken; then it cannot start any more.
FRAGILE = (
    "import pathlib, sys\n"
    "if (pathlib.Path(__file__).parent / 'broken').exists():\n"
    "    sys.exit('weights are missing')\n" + SERVER
)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """gpu1 and gpu2 run both programs, and gpu3 nothing."""
    one = Fleet(tmp_path_factory.mktemp("fleet"))
    for name in ("gpu1", "gpu2"):
        one.supervise(one.add(name), [("comfyui", FRAGILE), ("wrapper", SERVER)])
    one.add("gpu3", group="spare", running=False)
    until(lambda: one.fab("status", "--on", "gpus")[0] == 0, "all programs are well")
    yield one
    one.close()


@pytest.fixture
def broken(fleet: Fleet) -> Iterator[Path]:
    """Let comfyui of gpu1 run, and never start again."""
    mark = fleet.folder / "gpu1/broken"
    mark.touch()
    yield mark
    mark.unlink(missing_ok=True)
    assert fleet.fab("restart", "--program", "comfyui", "--on", "gpu1")[0] == 0


def states(fleet: Fleet, *words: str) -> dict[str, dict[str, str]]:
    _, out, _ = fleet.fab("status", "--json", *words)
    return {
        host["host"]: {
            program["name"]: f"{program['state']} {program['pid']}" for program in host["programs"]
        }
        for host in json.loads(out)["hosts"]
    }


def test_one_table_of_all_hosts(fleet: Fleet) -> None:
    code, out, errors = fleet.fab("status", "--on", "gpus")
    assert (code, errors) == (0, "")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert [row[:3] for row in rows] == [
        ["gpu1", "comfyui", "RUNNING"],
        ["gpu1", "wrapper", "RUNNING"],
        ["gpu2", "comfyui", "RUNNING"],
        ["gpu2", "wrapper", "RUNNING"],
    ]
    assert all(row[6] == "200" for row in rows)


def test_a_host_that_is_away_is_named_and_does_not_stop_the_others(fleet: Fleet) -> None:  # R49
    code, out, errors = fleet.fab("status")
    assert code == 1
    assert out.count("RUNNING") == 4
    assert "│ gpu3 │ -       │ not reached │" in out
    assert errors.startswith("fab: gpu3: no SSH connection to ")
    assert "(connection refused): is the host up" in errors
    assert errors.count("\n") == 1
    code, out, _ = fleet.fab("status", "--json")
    assert code == 1
    answer = json.loads(out)
    assert answer["ok"] is False
    assert {host["host"]: (host["ok"], host["reached"]) for host in answer["hosts"]} == {
        "gpu1": (True, True),
        "gpu2": (True, True),
        "gpu3": (False, False),
    }


def test_hosts_of_the_command_line(fleet: Fleet, tmp_path: Path) -> None:
    """-H takes names of the inventory with all that it says of them, and hosts that are in none."""
    code, out, errors = fleet.fab("-H", "gpu2,gpu1", "status")
    assert (code, errors) == (0, "")
    assert out.count("RUNNING") == 4
    assert out.index("gpu2") < out.index("gpu1")
    code, _, errors = fleet.fab("-H", "nobody@gpu1", "status")
    assert code == 1
    assert "nobody@127.0.0.1 port" in errors
    assert "refuses this login" in errors
    # Outside of the inventory it is a provisioned host with the default folders, which this one has not.
    elsewhere = f"{getpass.getuser()}@127.0.0.1:{fleet.hosts['gpu1'].port}"
    code, _, errors = fleet.fab("-i", str(fleet.key), "-H", elsewhere, "status")
    assert code == 1
    assert "/opt/ltxops/venv/bin/ltxops: not found): provision the host first" in errors
    code, _, errors = fleet.fab("-H", "gpu1", "status", "--on", "gpu2")
    assert (code, errors) == (2, "fab: both -H (gpu1) and --on (gpu2) name hosts: give one of them\n")


def test_through_a_jump_host(fleet: Fleet) -> None:
    inner = fleet.hosts["gpu2"]
    jump = f"{getpass.getuser()}@127.0.0.1:{fleet.hosts['gpu1'].port}"
    fleet.set("gpu2", ansible_ssh_common_args=f"-o ControlMaster=auto -J {jump}")
    log = fleet.folder / "gpu1/ssh/sshd.log"
    before = log.read_text().count("Accepted publickey")
    try:
        code, _, errors = fleet.fab("-i", str(fleet.key), "status", "--on", "gpu2")
        assert (code, errors) == (0, "")
        assert log.read_text().count("Accepted publickey") == before + 1
        # The jump host's key is checked as well.
        known = fleet.known_hosts.read_text()
        fleet.known_hosts.write_text(inner.known)
        code, _, errors = fleet.fab("-i", str(fleet.key), "status", "--on", "gpu2")
        fleet.known_hosts.write_text(known)
        assert code == 1
        assert f"[127.0.0.1]:{fleet.hosts['gpu1'].port}" in errors
        assert "--accept-new" in errors
    finally:
        fleet.set("gpu2", ansible_ssh_common_args="")


def test_restart_replaces_the_process_and_waits(fleet: Fleet) -> None:
    before = states(fleet, "--on", "gpus")
    code, out, errors = fleet.fab("restart", "--program", "comfyui", "--on", "gpus")
    assert code == 0, errors
    after = states(fleet, "--on", "gpus")
    for name in ("gpu1", "gpu2"):
        old, new = (which[name]["comfyui"].split()[1] for which in (before, after))
        assert old != new
        assert f"{name}: comfyui is running and well, pid {new} (it was RUNNING, pid {old})" in out
        assert before[name]["wrapper"] == after[name]["wrapper"], "the other program was left alone"
    assert errors == "gpu1: restarting comfyui\ngpu2: restarting comfyui\n"


def test_restart_stops_at_the_first_host_that_does_not_get_well(fleet: Fleet, broken: Path) -> None:  # R32
    before = states(fleet, "--on", "gpus")
    started = time.monotonic()
    code, out, errors = fleet.fab("restart", "--program", "comfyui", "--on", "gpu1,gpu2")
    assert time.monotonic() - started < 60
    assert (code, out) == (1, "")
    assert "fab: gpu1: comfyui is FATAL" in errors
    assert "  | weights are missing\n" in errors
    assert "gpu2: left alone, because comfyui is not well on gpu1" in errors
    assert states(fleet, "--on", "gpu2")["gpu2"] == before["gpu2"]
    code, out, errors = fleet.fab("status", "--on", "gpu1")
    assert code == 1
    assert "fab: gpu1: comfyui is FATAL" in errors


def test_restart_passes_over_a_host_that_is_away(fleet: Fleet) -> None:  # R49
    code, out, errors = fleet.fab("restart", "--program", "wrapper", "--on", "gpu3,gpu1")
    assert code == 5
    assert "gpu1: wrapper is running and well" in out
    assert "fab: gpu3: no SSH connection" in errors


def test_restart_wants_to_know_what_and_where(fleet: Fleet) -> None:
    code, _, errors = fleet.fab("restart")
    assert (code, errors) == (
        2,
        "fab: --program is missing: say which program to restart, such as comfyui\n",
    )
    code, _, errors = fleet.fab("restart", "--program", "comfyui")
    assert (code, errors) == (
        2,
        "fab: the inventory has 3 hosts (gpu1, gpu2, gpu3): say which with --on, or --on all\n",
    )
    code, _, errors = fleet.fab("restart", "--program", "nix", "--on", "gpus")
    assert code == 2
    assert "fab: gpu1: there is no program 'nix' on gpu1: choose one of comfyui, wrapper\n" in errors
    assert "fab: gpu2: there is no program 'nix'" in errors


def test_a_host_that_is_this_machine_needs_no_ssh(fleet: Fleet) -> None:
    """As the demo's inventory has it."""
    fleet.set("gpu1", ansible_connection="local", ansible_port=free_port())
    try:
        code, out, errors = fleet.fab("status", "--on", "gpu1")
        assert (code, errors) == (0, "")
        assert out.count("RUNNING") == 2
        code, out, errors = fleet.fab("logs", "--no-follow", "--program", "wrapper", "--on", "gpu1")
        assert (code, errors) == (0, "")
        assert "gpu1 | listening\n" in out
        code, _, errors = fleet.fab("tunnel", "--on", "gpu1")
        assert code == 2
        assert "gpu1 is this machine" in errors
    finally:
        fleet.set("gpu1", ansible_connection="ssh", ansible_port=fleet.hosts["gpu1"].port)
