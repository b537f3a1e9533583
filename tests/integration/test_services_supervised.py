"""`ltxops services` against a real supervisord with programs that run, crash and hang."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.support import free_port, wait_for

from ltxops.errors import CheckFailed
from ltxops.upkeep import supervisor
from ltxops.upkeep.supervisor import processes

LTXOPS = [sys.executable, "-m", "ltxops.cli.main"]

SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(sys.argv[2])); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
HANG = """
import socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening, saying nothing", flush=True)
time.sleep(600)
"""
CRASH = """
for number in range(30): print(f"line {number}")
raise SystemExit("weights are missing")
"""


class Supervised:
    """A supervisord of the test's own, in a folder with a short path: a socket's has at most 107 bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "s.sock"
        self.programs: list[dict[str, Any]] = []
        self.sections = ""
        self.process: subprocess.Popen[bytes] | None = None

    def add(
        self, name: str, code: str, *arguments: object, health: int | None = None, **settings: object
    ) -> int:
        port = free_port()
        (self.folder / f"{name}.py").write_text(code)
        words = " ".join(str(word) for word in (sys.executable, self.folder / f"{name}.py", port, *arguments))
        log = self.folder / f"{name}.log"
        options = {
            "startsecs": 1,
            "startretries": 1,
            "stdout_logfile": log,
            "redirect_stderr": "true",
            **settings,
        }
        self.sections += f"[program:{name}]\ncommand={words}\n"
        self.sections += "".join(f"{key}={value}\n" for key, value in options.items())
        url = f"http://127.0.0.1:{port}/health"
        self.programs.append(
            {
                "name": name,
                "address": f"127.0.0.1:{port}",
                "health": {"url": url, "status": health} if health else None,
                "log": str(log),
            }
        )
        return port

    def start(self) -> None:
        """Start supervisord, and wait until it takes calls."""
        self.begin()
        wait_for(self._listens)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def begin(self) -> None:
        """Start supervisord, and no more."""
        configuration = self.folder / "s.conf"
        configuration.write_text(
            f"[unix_http_server]\nfile={self.socket}\n"
            f"[supervisord]\nlogfile={self.folder}/s.log\npidfile={self.folder}/s.pid\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n" + self.sections
        )
        command = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(configuration)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        """Kill all of it: an orderly end takes supervisord some seconds."""
        if self.process is None or self.process.poll() is not None:
            return
        try:
            pids = {process.pid for process in processes(self.socket, "user").values()} - {0}
        except CheckFailed:
            pids = set()
        self.process.kill()
        self.process.wait()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def run(self, *words: str) -> tuple[int, str, str]:
        config = self.folder / "host.json"
        description = {"name": "demo", "scope": "user", "supervisor": {"socket": str(self.socket)}}
        config.write_text(json.dumps({**description, "programs": self.programs}))
        command = [*LTXOPS, "services", *words, "--config", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def supervised() -> Iterator[Supervised]:
    folder = Path(tempfile.mkdtemp(prefix="sv-"))
    one = Supervised(folder)
    yield one
    one.stop()
    shutil.rmtree(folder)


def test_wait_and_status_of_programs_that_are_well(supervised: Supervised) -> None:
    supervised.add("engine", SERVER, 200, health=200)
    supervised.add("gateway", SERVER, 401, health=401)
    supervised.add("janitor", "import time; time.sleep(600)")
    supervised.start()
    code, out, errors = supervised.run("wait", "--timeout", "30", "--json")
    assert code == 0, errors
    ready = json.loads(out)
    assert ready["ok"] is True
    code, out, errors = supervised.run("status")
    assert (code, errors) == (0, "")
    rows = [line for line in out.splitlines() if "RUNNING" in line]
    assert len(rows) == 3
    for row, program, health in zip(rows, supervised.programs, ("200", "401", "-"), strict=True):
        assert all(text in row for text in (program["name"], program["address"], health, program["log"]))
    code, out, _ = supervised.run("status", "--json")
    pids = {program["name"]: program["pid"] for program in json.loads(out)["programs"]}
    assert pids == {program["name"]: program["pid"] for program in ready["programs"]}
    for pid in pids.values():
        os.kill(pid, 0)


def test_a_crashing_program_ends_the_wait_early_with_its_last_lines(supervised: Supervised) -> None:  # R32
    supervised.add("engine", SERVER, 200, health=200)
    supervised.add("wrapper", CRASH, health=200)
    supervised.start()
    started = time.monotonic()
    code, out, errors = supervised.run("wait", "--timeout", "50", "--json")
    assert time.monotonic() - started < 25
    assert code == 1
    result = json.loads(out)
    assert (result["ok"], result["program"]) == (False, "wrapper")
    assert "wrapper is FATAL" in result["error"]
    assert "\n" not in result["error"]
    assert len(result["log_tail"]) == 15
    assert result["log_tail"][-2:] == ["line 29", "weights are missing"]
    assert "  | weights are missing" in errors
    assert "ready" not in out


def test_a_program_that_looks_well_between_crashes_is_never_ready(supervised: Supervised) -> None:  # R32
    flapping = SERVER.replace("self.end_headers()", "self.end_headers(); os._exit(9)")
    supervised.add("engine", flapping, 200, health=200, startsecs=0, autorestart="true")
    supervised.start()
    code, _, errors = supervised.run("wait", "--timeout", "50")
    assert code == 1
    assert "engine: RUNNING, health 200" in errors
    assert "engine keeps crashing" in errors


def test_a_port_that_is_open_but_silent_is_not_healthy(supervised: Supervised) -> None:  # R34
    port = supervised.add("engine", HANG, health=200)
    supervised.start()
    wait_for(lambda: processes(supervised.socket, "user")["engine"].state == "RUNNING")
    wait_for(lambda: "listening" in (supervised.folder / "engine.log").read_text())
    started = time.monotonic()
    code, out, errors = supervised.run("wait", "--timeout", "6")
    assert code == 1
    assert time.monotonic() - started < 40
    assert (
        f"engine is RUNNING but not healthy (http://127.0.0.1:{port}/health: no answer within 5 s)" in errors
    )
    assert "  | listening, saying nothing" in errors
    assert out == ""


def test_status_names_what_is_wrong(supervised: Supervised) -> None:
    supervised.add("engine", SERVER, 503, health=200)
    supervised.add("wrapper", SERVER, 200, health=200, autostart="false")
    supervised.start()
    wait_for(lambda: "503" in supervised.run("status")[2])
    code, out, errors = supervised.run("wait", "--timeout", "4")
    assert code == 1
    assert "503 instead of 200" in errors
    assert "wrapper is STOPPED" in errors
    supervised.programs.append({"name": "[red]ghost", "health": None})
    code, out, errors = supervised.run("status", "--json")
    assert code == 1
    assert [program["state"] for program in json.loads(out)["programs"]] == ["RUNNING", "STOPPED", "ABSENT"]
    code, out, _ = supervised.run("status")
    assert code == 1
    assert "[red]ghost" in out


def test_without_supervisord_it_says_how_to_start_it(supervised: Supervised) -> None:
    supervised.add("engine", SERVER, 200)
    code, _, errors = supervised.run("status")
    assert code == 1
    assert f"supervisord is not running (no socket at {supervised.socket}): start it with" in errors
    supervised.begin()  # to wait is to wait for supervisord, too
    code, _, errors = supervised.run("wait", "--timeout", "50")
    assert code == 0, errors
    assert supervised.process is not None
    pid = json.loads(supervised.run("status", "--json")[1])["programs"][0]["pid"]
    supervised.process.send_signal(signal.SIGKILL)  # leaves its socket and its programs behind
    supervised.process.wait()
    try:
        code, _, errors = supervised.run("status")
        assert code == 1
        assert "nobody listens on" in errors
    finally:
        os.kill(pid, signal.SIGKILL)


def test_bad_input_exits_2(supervised: Supervised) -> None:
    code, _, errors = supervised.run("status")  # a description without programs
    assert code == 2
    assert "programs is []" in errors
    supervised.add("engine", SERVER, 200)
    for value in ("0", "soon", "nan", "-1"):
        code, _, errors = supervised.run("wait", f"--timeout={value}")
        assert code == 2
        assert repr(value) in errors


def test_restart_of_one_program_leaves_the_others_alone(supervised: Supervised) -> None:
    supervised.add("engine", SERVER, 200, health=200)
    supervised.add("wrapper", SERVER, 200, health=200, autostart="false")
    code, _, errors = supervised.run("restart", "--program", "wrapper")
    assert code == 1
    assert "supervisord is not running" in errors
    supervised.start()
    code, out, errors = supervised.run("restart", "--program", "wrapper", "--timeout", "30")
    assert code == 0, errors
    assert "wrapper is running and well" in out
    assert "(it was STOPPED)" in out
    engine, wrapper = json.loads(supervised.run("status", "--json")[1])["programs"]
    code, out, errors = supervised.run("restart", "--program", "engine", "--timeout", "30", "--json")
    assert code == 0, errors
    result = json.loads(out)
    assert (result["before"]["pid"], result["ok"]) == (engine["pid"], True)
    after = json.loads(supervised.run("status", "--json")[1])["programs"]
    assert after[0]["pid"] == result["programs"][0]["pid"] != engine["pid"]
    assert after[1]["pid"] == wrapper["pid"]


def test_restart_of_what_cannot_start_says_why(supervised: Supervised) -> None:
    supervised.add("engine", SERVER, 200, health=200)
    supervised.programs.append({"name": "ghost", "health": None})
    supervised.sections += "[program:lost]\ncommand=/nix/da\nautostart=false\n"
    supervised.programs.append({"name": "lost", "health": None})
    supervised.start()
    for words, expected, sentence in (
        (["--program", "nix"], 2, "there is no program 'nix' on demo: choose one of engine, ghost, lost"),
        (["--program", "engine", "--timeout", "0"], 2, "--timeout is '0'"),
        (["--program", "ghost"], 1, "supervisord does not know ghost"),
        (
            ["--program", "lost"],
            1,
            "supervisord refuses to start lost (NO_FILE: can't find command '/nix/da')",
        ),
    ):
        code, out, errors = supervised.run("restart", *words)
        assert (code, out) == (expected, "")
        assert sentence in errors


def pids(supervised: Supervised) -> dict[str, int]:
    _, out, _ = supervised.run("status", "--json")
    return {program["name"]: program["pid"] for program in json.loads(out)["programs"]}


def test_apply_restarts_what_changed_starts_what_stands_still_and_nothing_else(  # R33
    supervised: Supervised,
) -> None:
    for name in ("changed", "stopped", "gone", "same"):
        supervised.add(name, "import time; time.sleep(600)")
    supervised.start()
    assert supervised.run("wait", "--timeout", "60")[0] == 0
    before = pids(supervised)
    supervisor.stop(supervised.socket, "user", "stopped")
    configuration = supervised.folder / "s.conf"
    sections = configuration.read_text().split("[program:")
    kept = [part for part in sections if not part.startswith("gone]")]
    text = "[program:".join(kept).replace("[program:changed]\n", '[program:changed]\nenvironment=A="b"\n')
    configuration.write_text(text + text[text.index("[program:same]") :].replace(":same]", ":new]"))
    supervised.programs[2]["name"] = "new"
    code, out, errors = supervised.run("apply", "--timeout", "60", "--json")
    assert code == 0, errors
    assert sorted(json.loads(out)["changed"]) == ["changed", "gone", "new", "stopped"]
    after = pids(supervised)
    assert after["same"] == before["same"]
    assert after["changed"] != before["changed"]
    assert all(after.values())
    code, out, errors = supervised.run("apply", "--timeout", "60", "--json")
    assert (code, json.loads(out)["changed"], pids(supervised)) == (0, [], after)


def test_apply_of_a_broken_configuration_leaves_all_as_it_runs(supervised: Supervised) -> None:  # R35
    supervised.add("engine", "import time; time.sleep(600)")
    supervised.start()
    assert supervised.run("wait", "--timeout", "60")[0] == 0
    before = pids(supervised)
    configuration = supervised.folder / "s.conf"
    configuration.write_text(configuration.read_text().replace("startsecs=1", "startsecs=soon"))
    code, _, errors = supervised.run("apply", "--timeout", "60")
    assert code == 1
    assert "refuses its new configuration" in errors
    assert pids(supervised) == before


def test_apply_names_a_program_that_crashes_with_its_last_words(supervised: Supervised) -> None:  # R32
    supervised.add("engine", CRASH)
    supervised.start()
    code, _, errors = supervised.run("apply", "--timeout", "60")
    assert code == 1
    assert "engine" in errors
    assert "weights are missing" in errors
