"""What the doctor reads and how it judges: sockets, versions, secrets, GPUs, faults."""

import http.server
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ltxops.upkeep.doctor import cleaning, machine, programs, secrets, sockets, versions
from ltxops.upkeep.doctor.checks import Check
from ltxops.upkeep.doctor.run import verdict
from ltxops.upkeep.faults import Fault
from ltxops.upkeep.tokens import Token

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
TCP = HEADER + (
    "   0: 0100007F:46FA 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1\n"
    "   1: 00000000:1FFC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1\n"
    "   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 13 1\n"
    "   3: 0500007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 14 1\n"
)
TCP6 = HEADER + (
    "   0: 00000000000000000000000001000000:0BB8 0:0 0A 0:0 00:0 0     0        0 21 1\n"
    "   1: 0000000000000000FFFF00000100007F:0BB9 0:0 0A 0:0 00:0 0     0        0 22 1\n"
    "   2: 00000000000000000000000000000000:0BBA 0:0 0A 0:0 00:0 0     0        0 23 1\n"
)


def test_the_kernels_tables_are_read() -> None:
    found = [(it.address, it.port, it.on_loopback) for it in sockets.parse(TCP) + sockets.parse(TCP6)]
    assert found == [
        ("127.0.0.1", 18170, True),
        ("0.0.0.0", 8188, False),
        ("0.0.0.0", 22, False),
        ("::1", 3000, True),
        ("127.0.0.1", 3001, True),
        ("::", 3002, False),
    ]


def test_a_table_of_another_shape_is_no_clean_bill() -> None:  # R11
    with pytest.raises(ValueError, match="another shape"):
        sockets.parse("nothing known\n")


def test_only_what_is_declared_may_be_reached_from_outside() -> None:  # R11
    found = sockets.parse(TCP) + sockets.parse(TCP6)
    holders = {"12": "nginx (pid 1)", "13": "sshd (pid 2)", "23": "python (pid 3)"}
    assert sockets.judge(found, {8188}, holders, set()) == ["python (pid 3) listens on :: port 3002"]
    assert sockets.judge(found, {8188, 3002}, holders, set()) == []
    assert sockets.judge(found, set(), {}, {8188}) == [
        "a process that cannot be seen listens on 0.0.0.0 port 8188"
    ]


@pytest.mark.parametrize(
    ("package", "version", "names"),
    [
        ("ComfyUI", "0.27.0", ["CVE-2026-56670"]),
        ("ComfyUI", "v0.28.0", []),
        ("ComfyUI", "0.100.0", []),
        ("ComfyUI", "1.0", []),
        ("ComfyUI-Manager", "3.37.1", ["CVE-2025-67303", "CVE-2026-22777"]),
        ("ComfyUI-Manager", "3.38", ["CVE-2026-22777"]),
        ("ComfyUI-Manager", "3.39.2", []),
        ("ComfyUI-Manager", "4.0.4", ["CVE-2026-22777"]),
        ("ComfyUI-Manager", "4.2", []),
        ("ComfyUI-Manager", "2.5", ["CVE-2025-67303", "CVE-2026-22777"]),
    ],
)
def test_versions_with_holes_are_named(package: str, version: str, names: list[str]) -> None:  # R12
    said = " ".join(versions.judge({package: version}))
    assert [name for name in ("CVE-2026-56670", "CVE-2025-67303", "CVE-2026-22777") if name in said] == names


def test_a_version_that_cannot_be_told_is_no_clean_bill() -> None:  # R12
    assert "cannot be told" in versions.judge({"ComfyUI": "aceeae9"})[0]


def test_installed_versions_are_found(tmp_path: Path) -> None:
    comfyui, venv = tmp_path / "ComfyUI", tmp_path / "venv"
    (comfyui / "custom_nodes/comfyui-manager").mkdir(parents=True)
    (comfyui / "comfyui_version.py").write_text('# made by the build\n__version__ = "0.28.1"\n')
    (comfyui / "custom_nodes/comfyui-manager/pyproject.toml").write_text('[project]\nversion = "3.30"\n')
    assert versions.installed(comfyui, venv) == {"ComfyUI": "0.28.1", "ComfyUI-Manager": "3.30"}
    (venv / "lib/python3.11/site-packages/comfyui_manager-4.0.2.dist-info").mkdir(parents=True)
    assert versions.installed(comfyui, venv)["ComfyUI-Manager"] == "4.0.2"
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.28.0"\n')
    nowhere = tmp_path / "nowhere"
    assert versions.installed(tmp_path, nowhere) == {"ComfyUI": "0.28.0"}
    assert versions.installed(tmp_path, nowhere, comfyui / "custom_nodes")["ComfyUI-Manager"] == "3.30"


def test_weak_and_old_tokens_are_named_without_their_value() -> None:
    now = time.time()
    strong = Token("good", Path("/t"), "Zk3_vQ8-LmN1pXs7RtYw2AbCdEfGhIjK", now)
    weak = Token("weak", Path("/t"), "aaaaaaaaaaaaaaaabbbb", now)
    old = Token("old", Path("/t"), strong.value, now - 400 * 86400)
    said = secrets.judge_tokens([strong, weak, old], now)
    assert len(said) == 2
    assert "weak can be guessed" in said[0]
    assert "old is 400 days old" in said[1]
    assert strong.value not in " ".join(said) + repr([strong, weak])


def test_secrets_of_an_environment_are_read_as_the_shell_reads_them() -> None:
    quoted = """'a b;'"'"'c%d'"""
    text = f"# comment\nS3_SECRET_ACCESS_KEY={quoted}\nS3_REGION=us-east-1\nWEBHOOK_TOKEN=short\n"
    assert secrets.parse_environment(text) == {"S3_SECRET_ACCESS_KEY": "a b;'c%d"}


def test_a_secret_is_found_across_the_pieces_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "_CHUNK", 10)
    (tmp_path / "log").write_bytes(b"x" * 7 + b"SECRET-VALUE" + b"y" * 20)
    assert secrets.in_file(tmp_path / "log", {"it": b"SECRET-VALUE", "other": b"not-there"}) == ["it"]


def test_a_secret_in_a_command_line_is_found() -> None:  # R30
    secret = "a-token-in-an-argument"
    command = [sys.executable, "-c", "print(flush=True); input()", secret]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as careless:
        assert careless.stdout is not None
        # Its command line can be read only a moment after it was started.
        careless.stdout.readline()
        found = secrets.in_command_lines({"token": secret.encode()})
        careless.communicate(b"\n")
    assert found == [("token", f"pid {careless.pid}")]


@pytest.mark.parametrize(
    ("answer", "faults"),
    [
        ("NVIDIA L4, 100, 23034, 0\n", []),
        ("NVIDIA GeForce RTX 4090, 100, 24564, [N/A]\n", []),
        (
            "NVIDIA A100, 1, 40960, 0\nNVIDIA A100, 1, 40960, 3\n",
            ["NVIDIA A100 has 3 uncorrected memory errors"],
        ),
        ("", ["nvidia-smi names no GPU"]),
        ("No devices were found\n", ["nvidia-smi names no GPU"]),
    ],
)
def test_gpus_are_judged(answer: str, faults: list[str]) -> None:
    assert machine.judge_gpus(answer)[0] == faults


class Hub(http.server.BaseHTTPRequestHandler):
    """Names the time that its server has in `date`; none where that is empty."""

    def do_HEAD(self) -> None:
        self.send_response_only(200)
        if date := getattr(self.server, "date", ""):
            self.send_header("Date", date)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_the_hubs_time_is_read_and_a_clock_is_held_against_it() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            server.date = "Thu, 01 Jan 2026 00:00:00 GMT"  # type: ignore[attr-defined]
            assert machine.hub_time(url) == 1767225600.0
            server.date = ""  # type: ignore[attr-defined]
            with pytest.raises(ValueError, match="names no time"):
                machine.hub_time(url)
        finally:
            server.shutdown()
            thread.join()
    assert [machine.judge_clock(skew, url).ok for skew in (0.0, 60.0, 60.1)] == [True, True, False]
    assert machine.judge_clock(86400.0, url).detail.startswith(f"86400 s from what {url} says")


def told(report: dict[str, Any] | None, configured_seconds: float = 0.0) -> list[str]:
    return cleaning.judge_run("pressure", 600, report, configured_seconds, 100_000.0)


def test_a_cleaner_that_ran_and_found_room_is_well() -> None:
    assert told({"at": 99_900, "ok": True}) == []


def test_a_cleaner_that_found_no_room_is_told_with_its_own_sentence() -> None:  # R44
    report = {
        "at": 99_880,
        "ok": False,
        "error": "/w/output has 1.0 MiB free and needs 512.0 MiB",
        "exit_code": 4,
    }
    assert told(report) == ["pressure failed 2 min ago: /w/output has 1.0 MiB free and needs 512.0 MiB"]


def test_a_cleaner_that_runs_no_more_is_told() -> None:
    assert told({"at": 100_000 - 2100, "ok": True}) == []
    assert told({"at": 100_000 - 2101, "ok": True}) == ["pressure ran 35 min ago, and should every 10m"]
    assert told({"at": 200_000, "ok": True}) != [], "a clock that was set back hides it"
    assert len(told({"at": 0, "ok": False, "error": "gone"})) == 2


def test_a_cleaner_has_time_for_its_first_run() -> None:
    assert told(None, 2100.0) == []
    assert told(None, 2101.0) == ["pressure has never run"]


def test_faults_that_matter_are_told_apart_from_an_operators_restarts() -> None:
    def fault(kind: str, program: str = "comfyui") -> Fault:
        return Fault(0.0, program, kind, "")

    assert programs.judge_faults([fault("restart")] * 4) == []
    assert programs.judge_faults([fault("restart")] * 5) == ["comfyui was started again 5 times in a day"]
    assert programs.judge_faults([fault("cuda"), fault("hang", "wrapper")]) == [
        "comfyui lost its GPU 1 times in a day",
        "wrapper hung 1 times in a day",
    ]


def test_the_status_of_a_process_is_read() -> None:
    assert programs.parse_status("Name:\tx\nUid:\t106\t106\t106\t106\nNoNewPrivs:\t1\n") == (106, True)
    assert programs.parse_status("Uid:\t0\t0\t0\t0\n") == (0, False)


def test_the_verdict_names_each_failed_check() -> None:
    good, bad = Check("disk", True, "room"), Check("clock", False, "off by a year", "set it")
    assert verdict([good]) == ""
    assert verdict([good, bad]) == "1 of 2 checks failed: clock: off by a year"
    assert (good.to_json()["fix"], bad.to_json()["fix"]) == ("", "set it")
