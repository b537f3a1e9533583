"""The main job as a newcomer runs it: scripts/demo on this checkout, in a folder and on ports of its own."""

import fcntl
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from tests.integration.demo_host import LTXOPS, REPO, Demo, changed_tasks, last_line, new_host
from tests.support import wait_for


def system_state() -> dict[str, str]:
    """What the demo must leave alone: users, cron, and the services' configuration."""
    state = {}
    for name in ("passwd", "group", "cron.d", "crontab", "nginx", "supervisor", "init.d", "systemd/system"):
        path = Path("/etc") / name
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        content = b"".join(file.read_bytes() for file in files if file.is_file())
        state[name] = hashlib.sha256(repr(files).encode() + content).hexdigest()
    return state


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    host = new_host(tmp_path_factory.mktemp("demo"))
    before = system_state()
    host.first = host.run()
    assert host.first.returncode == 0, host.first.stdout[-3000:] + host.first.stderr[-3000:]
    yield host
    down = host.script("--down")
    assert down.returncode == 0, down.stderr
    assert host.processes() == set()
    assert system_state() == before


def test_it_ends_with_a_table_how_to_use_the_token_and_the_video(demo: Demo) -> None:
    assert demo.first
    output = demo.first.stdout
    for program in ("comfyui", "wrapper", "gateway", "janitor"):
        assert re.search(rf"{program}\s.*RUNNING", output), program
    assert demo.url in output
    assert f'curl -H "Authorization: Bearer $(cat {demo.folder}/etc/token)" {demo.url}/system_stats' in output
    assert demo.token not in output + demo.first.stderr  # R30
    video = Path(last_line(output))
    assert video.suffix == ".mp4"
    with av.open(str(video)) as container:
        assert [stream.codec_context.name for stream in container.streams] == ["h264", "aac"]
        assert sum(1 for _ in container.decode(video=0)) == 25


def test_the_command_it_shows_works(demo: Demo) -> None:
    assert demo.first
    shown = next(line for line in demo.first.stdout.splitlines() if line.startswith("Try it:"))
    command = shown.removeprefix("Try it:").strip()
    answer = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30)
    assert json.loads(answer.stdout)["system"]["comfyui_version"]


def test_every_weight_of_every_profile_is_in_its_place(demo: Demo) -> None:
    command = [LTXOPS, "models", "verify", "--manifest", str(REPO / "inventory/demo/models.yaml")]
    command += ["--profile", "full", "--root", str(demo.folder / "workspace/ComfyUI/models"), "--deep"]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def test_only_loopback_is_listened_on(demo: Demo) -> None:  # R11
    ours = {*demo.ports.values(), demo.hub_port}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            address, port = line.split()[1].rsplit(":", 1)
            if line.split()[3] == "0A" and int(port, 16) in ours:
                assert address == "0100007F"


def test_the_gateway_asks_for_the_token_and_serves_both_backends(demo: Demo) -> None:  # R1
    assert demo.curl("/queue") == (401, '{"error": "Unauthorized"}')
    assert demo.authorized("/queue")[0] == 200
    assert demo.authorized("/api/queue")[0] == 200
    assert demo.authorized("/health")[0] == 200
    assert "swagger" in demo.authorized("/docs")[1].lower()


def test_a_generation_through_the_wrapper_gives_the_documented_envelope(demo: Demo) -> None:
    workflow = json.loads((REPO / "workflows/check.json").read_text())
    body = json.dumps({"input": {"request_id": "demo-test", "workflow_json": workflow}})
    content = ("-H", "Content-Type: application/json", "-d", body)
    code, text = demo.authorized("/generate/sync", *content)
    answer = json.loads(text)
    assert (code, answer["status"], answer["id"]) == (200, "completed", "demo-test"), text
    output = answer["output"][0]
    assert Path(output["local_path"]).parent == demo.folder / "workspace/ComfyUI/output/demo-test"
    assert Path(output["local_path"]).is_file()
    assert json.loads(demo.authorized("/result/demo-test")[1])["output"] == answer["output"]


def test_a_second_run_changes_and_restarts_nothing(demo: Demo) -> None:  # R33 R47
    before = demo.pids()
    second = demo.run()
    assert second.returncode == 0
    assert changed_tasks(second.stdout) == 0
    assert demo.pids() == before
    assert last_line(second.stdout).endswith(".mp4")


def test_a_check_run_writes_nothing(demo: Demo) -> None:  # R47
    before = demo.pids()
    check = demo.run("--check", "--diff")
    assert check.returncode == 0, check.stdout[-3000:]
    assert changed_tasks(check.stdout) == 0
    assert demo.token not in check.stdout
    assert demo.pids() == before


def test_one_changed_setting_restarts_one_program_and_reaches_it_exactly(demo: Demo) -> None:  # R29 R30 R33
    value = "a % b ; c 'd' \"e\" $HOME `id` \\n é"
    before = demo.pids()
    demo.settings["wrapper_environment"] = {"TEST_SECRET": value}
    changed = demo.run("-vvv", "--diff")
    after = demo.pids()
    assert changed.returncode == 0, changed.stdout[-3000:]
    assert {name for name in before if before[name] != after[name]} == {"wrapper"}
    environment = Path(f"/proc/{after['wrapper']}/environ").read_bytes().split(b"\0")
    assert b"TEST_SECRET=" + value.encode() in environment
    log = (demo.folder / "run/provision.log").read_text()
    assert "TEST_SECRET=" not in changed.stdout + log
    files = [path for path in (demo.folder / "etc").rglob("*") if path.is_file()]
    holders = [path for path in files if b"TEST_SECRET" in path.read_bytes()]
    assert [(path.name, oct(path.stat().st_mode & 0o777)) for path in holders] == [("wrapper.env", "0o600")]


def test_without_a_gateway_of_ours_comfyui_is_proven_on_loopback(demo: Demo) -> None:
    assert "gateway" in demo.pids()
    without = demo.run(gateway_enabled=False)
    assert without.returncode == 0, without.stdout[-3000:]
    assert "gateway" not in demo.pids()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", demo.ports["gateway_port"]), timeout=5)
    described = json.loads((demo.folder / "etc/host.json").read_text())
    assert (described["url"], described["token_file"]) == (
        f"http://127.0.0.1:{demo.ports['comfyui_port']}",
        "",
    )
    again = demo.run()
    assert again.returncode == 0, again.stdout[-3000:]
    assert demo.curl("/queue")[0] == 401


def test_a_setting_with_a_line_break_is_refused(demo: Demo) -> None:  # R29
    refused = demo.run(wrapper_environment={"TEST": "one\ntwo"})
    assert refused.returncode == 2
    assert "line break" in last_line(refused.stdout)


def test_an_empty_token_is_refused_and_the_old_one_stays(demo: Demo) -> None:  # R3
    token = demo.token
    refused = demo.run(gateway_token="")
    assert refused.returncode == 2
    assert "gateway_token has 0 characters" in last_line(refused.stdout)
    assert demo.token == token


def test_a_wrong_profile_is_refused_with_a_suggestion(demo: Demo) -> None:
    refused = demo.run(models_profile="vsat")
    assert refused.returncode == 2
    assert "did you mean 'vast'" in last_line(refused.stdout)


def test_a_port_of_somebody_else_is_named(demo: Demo) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        refused = demo.run(gateway_port=port)
    assert refused.returncode == 1
    assert f"port {port} (gateway) is taken by pid {os.getpid()}" in last_line(refused.stdout)
    assert demo.authorized("/queue")[0] == 200


def test_a_missing_weight_is_named_by_the_smoke_test_and_fetched_again(demo: Demo) -> None:
    weight = demo.folder / "workspace/ComfyUI/models/checkpoints/ltx-2-19b-dev-fp8.safetensors"
    weight.unlink()
    failed = demo.smoke("--case", "two-stage")
    assert failed.returncode == 1
    assert "ltx-2-19b-dev-fp8.safetensors" in failed.stderr
    again = demo.run()
    assert (again.returncode, changed_tasks(again.stdout)) == (0, 1)
    assert weight.is_file()
    assert demo.smoke("--case", "two-stage").returncode == 0


def test_a_stopped_engine_is_said_so_and_started_again(demo: Demo) -> None:
    demo.supervisorctl("stop", "comfyui")
    failed = demo.smoke("--case", "check")
    assert failed.returncode == 1
    assert "ComfyUI behind it is not" in failed.stderr
    status = demo.services("status")
    assert (status.returncode, "STOPPED" in status.stdout) == (1, True)
    assert demo.run().returncode == 0
    assert demo.smoke("--case", "check").returncode == 0


def test_a_program_that_keeps_crashing_is_named_with_its_last_words(demo: Demo) -> None:  # R32
    failed = demo.run(comfyui_flags=["--no-such-flag"])
    assert failed.returncode == 1
    closing = failed.stdout.rsplit("PLAY RECAP", 1)[1]
    assert "comfyui" in closing
    assert "--no-such-flag" in closing
    assert demo.run().returncode == 0


def test_a_killed_program_comes_back(demo: Demo) -> None:
    before = demo.pids()["gateway"]
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: demo.pids()["gateway"] not in (before, 0))
    assert demo.services("wait", "--timeout", "60").returncode == 0
    assert demo.authorized("/queue")[0] == 200


def test_down_while_a_run_provisions_refuses_and_so_does_a_second_run(demo: Demo) -> None:
    with (demo.folder / "run/demo.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for refused in (demo.script("--down"), demo.run()):
            assert refused.returncode == 6
            assert "another run of scripts/demo" in last_line(refused.stderr)
    assert demo.authorized("/queue")[0] == 200


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gateway_port": 99999}, "gateway_port is 99999: a port is a number from 1 to 65535"),
        ({"gateway_port": "abc"}, "gateway_port is abc: a port is a number"),
        ({"smoke_cases": ["chek"]}, "chek"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_done(demo: Demo, settings: Any, words: str) -> None:
    refused = demo.run(**settings)
    assert refused.returncode == 2
    assert words in last_line(refused.stdout)
    assert "TASK [base" not in refused.stdout


@pytest.mark.parametrize("arguments", [("down",), ("--down", "--check")])
def test_words_it_does_not_know_are_refused(demo: Demo, arguments: tuple[str, ...]) -> None:
    assert demo.script(*arguments).returncode == 2


def test_down_of_a_demo_that_never_ran_says_so(tmp_path: Path) -> None:
    idle = Demo(tmp_path, {}, 1).script("--down")
    assert (idle.returncode, idle.stderr.strip()) == (0, "nothing of the demo was running")


def test_a_taken_hub_port_is_said_so(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        refused = Demo(tmp_path, {}, other.getsockname()[1]).script()
    assert refused.returncode == 1
    assert "LTXOPS_DEMO_HUB_PORT" in last_line(refused.stderr)


def test_a_killed_supervisord_leaves_nothing_that_stands_in_the_way(demo: Demo) -> None:
    supervisord = int((demo.folder / "run/supervisord.pid").read_text())
    orphans = set(demo.pids().values())
    os.kill(supervisord, signal.SIGKILL)
    again = demo.run()
    assert again.returncode == 0, again.stdout[-3000:]
    assert not orphans & demo.processes()
    assert demo.authorized("/queue")[0] == 200


def test_down_stops_what_a_killed_supervisord_left_behind(demo: Demo) -> None:
    os.kill(int((demo.folder / "run/supervisord.pid").read_text()), signal.SIGKILL)
    assert demo.script("--down").returncode == 0
    assert demo.processes() == set()
    assert demo.run().returncode == 0


def test_comfyui_sees_nothing_of_the_callers_environment(demo: Demo) -> None:
    demo.script("--down")
    os.environ["S3_SECRET_ACCESS_KEY"] = "the-callers-own-secret"
    try:
        assert demo.run().returncode == 0
    finally:
        del os.environ["S3_SECRET_ACCESS_KEY"]
    for program, pid in demo.pids().items():
        assert b"the-callers-own-secret" not in Path(f"/proc/{pid}/environ").read_bytes(), program


def test_a_check_of_a_demo_that_never_ran_writes_nothing(  # R47
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # With a short name, as the path of supervisord's socket has a limit.
    tmp_path = tmp_path_factory.mktemp("check")
    folder = tmp_path / "demo"
    idle = new_host(folder)
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        "LTXOPS_DEMO_DIR": str(folder),
    }
    command = [str(REPO / ".venv/bin/ansible-playbook"), "provision.yml", "--check", "--diff"]
    check = subprocess.run(
        [*command, "-e", json.dumps(idle.ports)], cwd=REPO, env=environment, capture_output=True, text=True
    )
    assert check.returncode == 0, check.stdout[-3000:]
    assert changed_tasks(check.stdout) > 5
    assert not folder.exists()


@pytest.mark.parametrize("tag", ["preflight", "base", "models", "comfyui", "wrapper", "gateway", "cleanup",
                                 "pyworker", "supervisor", "smoke"])  # fmt: skip
def test_a_role_runs_alone_by_its_tag(demo: Demo, tag: str) -> None:
    alone = demo.run("--tags", tag)
    assert (alone.returncode, changed_tasks(alone.stdout)) == (0, 0), alone.stdout[-2000:]
