"""Preflight: what is read from the system, and the sentence for each thing that is not as it must be."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from plugins.modules import ltxops_preflight as preflight

NEED: dict[str, Any] = {
    "scope": "host",
    "workspace": "/workspace",
    "home": "/opt/ltxops",
    "run_dir": "/run/ltxops",
    "min_python": "3.10",
    "min_ram_gib": 32,
    "disk_reserve_gib": 25,
    "gpu_required": True,
    "nvidia_smi": "nvidia-smi",
    "comfyui_gpus": "auto",
    "refusal_of_wrapper": "",
    "min_vram_gib": 24,
    "min_driver": "570.26",
    "models_root": "/workspace/ComfyUI/models",
    "commands": {"nginx": "nginx"},
    "ports": [{"port": "8188", "what": "gateway", "variable": "gateway_port"}],
}
SEEN: dict[str, Any] = {
    "os": {"ID": "ubuntu", "ID_LIKE": "debian", "PRETTY_NAME": "Ubuntu 22.04"},
    "python": "3.10.12",
    "ram_bytes": 64 * 1024**3,
    "gpus": [{"name": "NVIDIA GeForce RTX 4090", "vram_mib": 24564, "driver": "570.86.10"}],
    "uid": 0,
    "free_bytes": 200 * 1024**3,
    "missing_bytes": 60 * 1024**3,
    "commands": {"nginx": "/usr/sbin/nginx"},
    "ports": {"8188": {"free": True, "ours": False, "holder": ""}},
    "writable": True,
}


def complaints(need: dict[str, Any] | None = None, **changes: Any) -> list[tuple[int, str]]:
    problems = preflight.judge({**SEEN, **changes}, {**NEED, **(need or {})})
    return [(problem.code, problem.sentence) for problem in problems]


def only(found: list[tuple[int, str]]) -> tuple[int, str]:
    assert len(found) == 1, found
    return found[0]


def test_a_good_host_has_no_complaint() -> None:
    assert complaints() == []


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"os": {"ID": "fedora", "PRETTY_NAME": "Fedora 41"}}, 1, "Fedora 41: Debian or Ubuntu"),
        ({"python": "3.9.2"}, 1, "3.9.2: 3.10 or later"),
        ({"ram_bytes": 16 * 1024**3}, 1, "16.0 GiB of RAM: 32 GiB"),
        ({"uid": 1000}, 2, "ansible_become"),
        ({"writable": False}, 2, "/workspace"),
        ({"gpus": []}, 1, "no NVIDIA GPU answers to nvidia-smi"),
        (
            {"gpus": [{"name": "T4", "vram_mib": 15360, "driver": "570.86"}]},
            1,
            "15.0 GiB of video memory: 24",
        ),
        ({"gpus": [{"name": "L4", "vram_mib": 23034, "driver": "535.1"}]}, 1, "535.1: 570.26 or later"),
        ({"free_bytes": 70 * 1024**3}, 4, "15.0 GiB are lacking"),
        (
            {"ports": {"8188": {"free": False, "ours": False, "holder": "pid 7 (caddy)"}}},
            1,
            "port 8188 (gateway) is taken by pid 7 (caddy): stop it or set gateway_port",
        ),
    ],
)
def test_each_fault_gives_one_sentence(changes: dict[str, Any], code: int, words: str) -> None:
    seen_code, sentence = only(complaints(**changes))
    assert seen_code == code
    assert words in sentence


def test_all_faults_are_named_at_once() -> None:
    assert len(complaints(python="3.8.1", gpus=[], ram_bytes=1)) == 3


def test_our_own_port_is_no_fault() -> None:
    assert complaints(ports={"8188": {"free": False, "ours": True, "holder": "pid 7 (nginx)"}}) == []


def test_one_port_for_two_programs_is_refused() -> None:
    ports = [*NEED["ports"], {"port": "8188", "what": "API wrapper", "variable": "wrapper_port"}]
    assert only(complaints({"ports": ports})) == (2, "wrapper_port and gateway_port are both 8188")


def test_a_missing_nginx_is_a_fault_only_where_it_cannot_be_installed() -> None:
    nothing = {"nginx": None}
    assert complaints(commands=nothing) == []
    assert "sudo apt-get install nginx" in only(complaints({"scope": "user"}, commands=nothing, uid=1000))[1]
    assert complaints({"scope": "user"}, commands=nothing, uid=0) == []


def test_no_gpu_is_asked_for_where_none_is_required() -> None:
    assert complaints({"gpu_required": False}, gpus=[]) == []


@pytest.mark.parametrize("number", ["0", "17", "two", "", "-1", "1.5"])
def test_a_number_of_gpus_that_is_none_is_refused(number: str) -> None:
    problems = list(preflight.judge_settings({**NEED, "comfyui_gpus": number}))
    assert [(problem.code, problem.sentence) for problem in problems] == [
        (2, f"comfyui_gpus is {number}: give auto, or a number from 1 to 16")
    ]


def test_more_gpus_than_there_are_are_refused() -> None:
    assert list(preflight.judge_settings({**NEED, "comfyui_gpus": "2"})) == []
    assert complaints({"comfyui_gpus": "1"}) == []
    assert only(complaints({"comfyui_gpus": "2"}))[1].startswith("comfyui_gpus is 2 and nvidia-smi finds 1")
    assert complaints({"comfyui_gpus": "2", "gpu_required": False}, gpus=[]) == []


@pytest.mark.parametrize("name", ["workspace", "home", "run_dir"])
@pytest.mark.parametrize("path", ["/with space", "/100%", "/semi;colon", "/quote'd"])
def test_a_path_that_breaks_configuration_files_is_refused(name: str, path: str) -> None:
    assert [problem.code for problem in preflight.judge_settings({**NEED, name: path})] == [2]


def test_a_socket_path_that_is_too_long_is_refused() -> None:
    problem = next(iter(preflight.judge_settings({**NEED, "run_dir": "/" + "d" * 80})))
    assert (problem.code, "use a shorter folder" in problem.sentence) == (2, True)


def test_nvidia_smi_is_read() -> None:
    text = "NVIDIA H200, 143771, 570.86.10\nNVIDIA H200, 143771, 570.86.10\nNo devices were found\n"
    assert (
        preflight.parse_nvidia_smi(text)
        == [{"name": "NVIDIA H200", "vram_mib": 143771, "driver": "570.86.10"}] * 2
    )


def test_os_release_is_read() -> None:
    assert preflight.parse_os_release('ID=debian\nVERSION_ID="12"\n\n')["VERSION_ID"] == "12"


def test_a_listening_port_is_found_with_its_process() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert preflight.survey_port(port, {}, set())["free"] is False
        server.listen()
        listeners = preflight.parse_listeners(Path("/proc/net/tcp").read_text())
        foreign = preflight.survey_port(port, listeners, {1})
        mine = preflight.survey_port(port, listeners, {os.getpid()})
    assert foreign["free"] is False
    assert f"pid {os.getpid()} " in foreign["holder"]
    assert (foreign["ours"], mine["ours"]) == (False, True)
    assert preflight.survey_port(port, {}, set())["free"] is True


def test_bytes_already_there_are_not_counted_again(tmp_path: Path) -> None:
    (tmp_path / "whole").write_bytes(b"12345")
    (tmp_path / "part").write_bytes(b"12")
    files = [{"dest": name, "size": 5} for name in ("whole", "part", "absent")]
    assert preflight.missing_bytes(files, tmp_path) == 10
