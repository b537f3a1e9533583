"""A provisioned host under guard: doctor, watchdog, tokens, and the playbook that checks a fleet."""

import configparser
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.demo_host import LTXOPS, REPO, Demo, changed_tasks, last_line, new_host

SETTINGS = {"supervisor_hang_seconds": 8, "supervisor_watch_interval_seconds": 1, "supervisor_log_mib": 1}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    host = new_host(tmp_path_factory.mktemp("guard"))
    host.settings = {**SETTINGS, "wrapper_environment": {"TEST_SECRET": "very-secret-0123456789"}}
    host.first = host.run()
    assert host.first.returncode == 0, host.first.stdout[-3000:] + host.first.stderr[-3000:]
    yield host
    assert host.script("--down").returncode == 0
    assert host.processes() == set()


def doctor(demo: Demo, description: Path | None = None) -> tuple[int, dict[str, Any], str]:
    command = [LTXOPS, "doctor", "--json", "--config", str(description or demo.folder / "etc/host.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, json.loads(done.stdout), done.stderr


def failed(demo: Demo, description: Path | None = None) -> dict[str, str]:
    """The checks that are not ok, and what they say."""
    code, result, _ = doctor(demo, description)
    wrong = {check["name"]: check["detail"] for check in result["checks"] if not check["ok"]}
    assert (code, result["ok"]) == ((1, False) if wrong else (0, True))
    return wrong


def until(true: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.3)


def test_a_fresh_host_passes_every_check(demo: Demo) -> None:
    code, result, stderr = doctor(demo)
    assert (code, stderr, failed(demo)) == (0, "", {})
    assert len(result["checks"]) >= 15
    assert all(check["detail"] for check in result["checks"])
    assert "very-secret" not in json.dumps(result)
    assert demo.token not in json.dumps(result)


def test_every_program_is_bound_and_makes_files_that_others_cannot_read(demo: Demo) -> None:
    for name, pid in demo.pids().items():
        status = Path(f"/proc/{pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status, name
        assert "Umask:\t0007" in status or "Umask:\t0027" in status or "Umask:\t0077" in status, name


def test_each_program_is_started_stopped_and_logged_as_it_must_be(demo: Demo) -> None:  # R31
    for name, pid in demo.pids().items():
        sections = configparser.RawConfigParser()
        sections.read(demo.folder / f"etc/supervisord.d/{name}.conf")
        found = dict(sections[f"program:{name}"])
        assert found["command"].endswith(f"/home/bin/{name}.sh")
        assert (found["stopasgroup"], found["killasgroup"], found["autorestart"]) == ("true", "true", "true")
        assert int(found["startsecs"]) >= 1 and int(found["startretries"]) >= 1
        assert (found["stdout_logfile_maxbytes"], int(found["stdout_logfile_backups"]) > 0) == ("1MB", True)
        assert os.getpgid(pid) == pid, f"{name} has no process group of its own"


def test_comfyui_is_started_on_loopback_without_what_opens_it(demo: Demo) -> None:  # R13
    words = Path(f"/proc/{demo.pids()['comfyui']}/cmdline").read_text().split("\0")
    assert words[words.index("--listen") + 1] == "127.0.0.1"
    assert not {"--enable-cors-header", "--enable-manager"} & set(words)


def test_every_route_of_the_wrapper_is_open_with_the_token_alone(demo: Demo) -> None:  # R1
    documented = json.loads(demo.authorized("/openapi.json")[1])["paths"]
    routes = [(method.upper(), path) for path, methods in documented.items() for method in methods]
    assert {"/generate", "/generate/sync", "/generate/stream", "/queue-info"} <= set(documented)
    for method, path in [*routes, ("GET", "/docs"), ("GET", "/openapi.json")]:
        path = path.replace("{request_id}", "nobody")
        assert demo.curl(path, "-X", method)[0] == 401, (method, path)
        # Refused by the wrapper at most, which is asked for no job here.
        status, body = demo.authorized(path, "-X", method)
        assert status in (200, 400, 404, 415, 422), (method, path, status, body)


def test_the_gateways_log_is_rotated_while_it_runs(demo: Demo) -> None:
    logs, pid = demo.folder / "workspace/logs", demo.pids()["gateway"]
    command = ["curl", "-s", "-o", "/dev/null", f"{demo.url}/[1-170]/{'x' * 7000}"]
    assert subprocess.run(command, timeout=120).returncode == 0
    until((logs / "gateway.log.1").exists)
    assert demo.authorized("/queue")[0] == 200
    until(lambda: '"path":"/queue"' in (logs / "gateway.log").read_text())
    assert (logs / "gateway.log").stat().st_size < 2**20
    assert demo.pids()["gateway"] == pid


def test_a_secret_in_a_log_or_a_command_line_is_found(demo: Demo) -> None:  # R30
    log = demo.folder / "workspace/logs/comfyui.log"
    before = log.read_bytes()
    with log.open("a") as file:
        file.write("x" * 5_000_000 + "very-secret-0123456789\n")
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", demo.token])
    try:
        found = failed(demo)
    finally:
        sleeper.kill()
        sleeper.wait()
        log.write_bytes(before)
    assert list(found) == ["leaks"]
    assert f"the token host is in the command line of pid {sleeper.pid}" in found["leaks"]
    assert f"TEST_SECRET is in {log}" in found["leaks"]
    assert failed(demo) == {}


@pytest.mark.parametrize("name", ["token", "wrapper.env", "gateway/tokens.conf"])
def test_a_secret_that_others_may_read_is_found_and_mended(demo: Demo, name: str) -> None:  # R30
    path = demo.folder / "etc" / name
    path.chmod(0o644)
    found = failed(demo)
    path.chmod(0o600)
    assert found == {"secret files": f"{path} has mode 0644"}


def test_a_weak_token_is_found(demo: Demo) -> None:
    path = demo.folder / "etc/tokens/weak"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(0o600)
    path.write_text("aaaaaaaaaaaaaaaa\n")
    found = failed(demo)
    path.unlink()
    assert "weak can be guessed" in found["tokens"]


@pytest.mark.parametrize(
    ("changed", "name", "said"),
    [
        ({"min_free": "900TiB"}, "disk", "less than 900.0 TiB"),
        ({"gpu_required": True, "nvidia_smi": "/bin/false"}, "gpu", "nvidia-smi fails"),
        ({"gpu_required": True, "nvidia_smi": "/bin/true"}, "gpu", "nvidia-smi names no GPU"),
        ({"gpu_required": True, "nvidia_smi": "/nonexistent"}, "gpu", "could not run"),
        ({"engine": "git"}, "versions", "could not run"),
        ({"tls_certificate": "/nonexistent.pem"}, "gateway", "/nonexistent.pem ends within 14 days"),
        ({"open_ports": 3}, "", "doctor is not as expected"),
        ({"state": "/nonexistent"}, "disk cleaners faults smoke", ""),
    ],
)
def test_what_is_not_as_it_must_be_is_told(
    demo: Demo, tmp_path: Path, changed: dict[str, Any], name: str, said: str
) -> None:  # R11
    described = json.loads((demo.folder / "etc/host.json").read_text())
    described["doctor"] |= changed
    description = tmp_path / "host.json"
    description.write_text(json.dumps(described))
    if not name:
        code, result, _ = doctor(demo, description)
        assert (code, said in result["error"]) == (2, True)
        return
    found = failed(demo, description)
    assert set(found) == set(name.split())
    assert all(said in detail for detail in found.values())


def test_a_check_that_cannot_run_fails(demo: Demo) -> None:  # R11
    heartbeat = demo.folder / "state/janitor.heartbeat"
    demo.supervisorctl("stop", "janitor")
    heartbeat.unlink()
    found = failed(demo)
    assert "could not run" in found["cleaners"]
    assert "janitor is STOPPED" in found["programs"]
    demo.supervisorctl("start", "janitor")
    until(heartbeat.exists)


def test_a_cleaner_that_finds_no_room_is_told(demo: Demo) -> None:  # R44
    config, report = demo.folder / "etc/janitor.yaml", demo.folder / "state/cleanup/pressure.json"
    good = config.read_text()
    demo.supervisorctl("stop", "janitor")

    def clean(min_free: str) -> int:
        config.write_text(good.replace('"min_free": "512MiB"', f'"min_free": "{min_free}"'))
        command = [LTXOPS, "clean", "pressure", "--config", str(config)]
        return subprocess.run(command, capture_output=True, timeout=60).returncode

    assert clean("900TiB") == 4
    found = failed(demo)["cleaning"]
    assert found.startswith("pressure failed 0 min ago: ")
    assert "needs 900.0 TiB" in found
    _, result, _ = doctor(demo)
    assert "free space by hand" in next(it["fix"] for it in result["checks"] if it["name"] == "cleaning")
    assert clean("512MiB") == 0
    assert "cleaning" not in failed(demo)
    told = json.loads(report.read_text())
    report.write_text(json.dumps({**told, "at": told["at"] - 7200}))
    assert "pressure ran 120 min ago, and should every 10m" in failed(demo)["cleaning"]
    report.write_text("[]")
    assert "could not run" in failed(demo)["cleaning"]
    assert clean("512MiB") == 0
    demo.supervisorctl("start", "janitor")


def test_a_program_that_gave_up_is_told_with_its_last_words(demo: Demo) -> None:  # R32
    script = demo.folder / "home/bin/wrapper.sh"
    good = script.read_text()
    script.write_text("#!/bin/sh\necho the last words of the wrapper\nexit 3\n")
    demo.supervisorctl("restart", "wrapper")
    until(lambda: "FATAL" in demo.supervisorctl("status", "wrapper"))
    found = failed(demo)
    script.write_text(good)
    demo.supervisorctl("start", "wrapper")
    assert "wrapper is FATAL" in found["programs"]
    assert "the last words of the wrapper" in found["programs"]
    assert demo.services("wait", "--timeout", "60").returncode == 0


def test_a_hung_engine_is_restarted_and_the_fault_shown(demo: Demo) -> None:  # R34
    before = demo.pids()
    os.kill(before["comfyui"], signal.SIGSTOP)
    until(lambda: demo.pids()["comfyui"] not in (before["comfyui"], 0))
    assert demo.services("wait", "--timeout", "60").returncode == 0
    after = demo.pids()
    assert {name for name in before if before[name] != after[name]} == {"comfyui"}
    assert "comfyui hung 1 times in a day" in failed(demo)["faults"]
    assert demo.smoke("--case", "check").returncode == 0
    demo.supervisorctl("stop", "watchdog")
    (demo.folder / "state/watchdog.json").unlink()
    demo.supervisorctl("start", "watchdog")
    until((demo.folder / "state/watchdog.json").exists)


def test_tokens_of_a_running_host_survive_the_playbook(demo: Demo) -> None:  # R33 R47
    command = [LTXOPS, "token", "new", "--name", "client", "--directory", str(demo.folder / "etc"), "--show"]
    value = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()
    pids = demo.pids()
    again = demo.run()
    assert (again.returncode, changed_tasks(again.stdout)) == (0, 0), again.stdout[-3000:]
    assert demo.pids() == pids
    assert demo.curl("/queue", "-H", f"Authorization: Bearer {value}")[0] == 200


def test_the_playbook_checks_hosts_and_says_what_is_wrong(demo: Demo) -> None:
    def play() -> "subprocess.CompletedProcess[str]":
        command = [str(REPO / ".venv/bin/ansible-playbook"), "-i", "inventory/demo/hosts.yml"]
        environment = {**os.environ, "LTXOPS_DEMO_DIR": str(demo.folder)}
        return subprocess.run(
            [*command, "playbooks/doctor.yml"],
            cwd=REPO, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    good = play()
    assert (good.returncode, changed_tasks(good.stdout)) == (0, 0), good.stdout[-3000:]
    (demo.folder / "etc/token").chmod(0o644)
    bad = play()
    (demo.folder / "etc/token").chmod(0o600)
    assert bad.returncode == 2
    assert "1 of 15 checks failed: secret files" in last_line(bad.stdout)


def test_a_configuration_that_nginx_refuses_leaves_the_running_gateway_alone(demo: Demo) -> None:  # R35
    pids = demo.pids()
    (demo.folder / "bad.pem").write_text("no certificate\n")
    refused = demo.run(
        gateway_address="127.0.0.2",
        gateway_tls_certificate=str(demo.folder / "bad.pem"),
        gateway_tls_key=str(demo.folder / "bad.pem"),
    )
    assert refused.returncode != 0
    assert demo.pids() == pids
    assert demo.authorized("/queue")[0] == 200
    assert demo.run().returncode == 0


def test_a_program_that_supervisord_cannot_read_is_refused_and_the_others_run_on(demo: Demo) -> None:  # R35
    broken, pids = demo.folder / "etc/supervisord.d/broken.conf", demo.pids()
    broken.write_text("[program:broken]\n")
    refused = demo.run()
    broken.unlink()
    assert refused.returncode != 0
    assert "broken" in last_line(refused.stdout)
    assert demo.pids() == pids
    assert demo.authorized("/queue")[0] == 200


def test_a_misspelt_variable_is_refused_before_anything_is_done(demo: Demo) -> None:
    refused = demo.run(gateway_prot=8188)
    assert refused.returncode == 2
    assert "gateway_prot is no variable of role gateway: did you mean gateway_port?" in last_line(
        refused.stdout
    )
    assert "TASK [base" not in refused.stdout


def test_a_run_right_after_a_shutdown_waits_for_its_end(demo: Demo) -> None:
    before = demo.pids()
    os.kill(before["comfyui"], signal.SIGSTOP)  # it is killed in the end, after its stopwaitsecs
    demo.supervisorctl("shutdown")
    again = demo.run()
    assert again.returncode == 0, again.stdout[-3000:]
    assert not set(before.values()) & set(demo.pids().values())
    log = (demo.folder / "workspace/logs/supervisord.log").read_text()
    started = re.findall(r"spawned: '(\S+)' with pid", log.rsplit("supervisord started with pid", 1)[1])
    assert list(dict.fromkeys(started)) == ["comfyui", "wrapper", "gateway", "janitor", "watchdog"]
