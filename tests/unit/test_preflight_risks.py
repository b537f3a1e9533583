"""Preflight refuses settings that would leave a host open, and names versions with known holes."""

import json
from pathlib import Path
from typing import Any

import pytest
from plugins.module_utils import ltxops_risks as risks

from ltxops.upkeep.doctor import versions

HOLES = versions.known_holes()
COMMIT = "aceeae9635f6d493f2893ba3c411a1c36031788a"
NEED: dict[str, Any] = {
    "scope": "host",
    "engine": "git",
    "engine_address": "127.0.0.1",
    "engine_flags": ["--lowvram"],
    "service_users": ["ltxops", "comfy"],
    "nodes": [{"name": "ComfyUI-LTXVideo", "version": COMMIT}],
}


def found(**changes: Any) -> list[str]:
    return [risk for risk, _ in risks.risks_in({**NEED, **changes})]


def test_the_defaults_are_safe() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"engine_flags": ["--listen", "0.0.0.0"]}, ["public_listen"]),
        ({"engine_flags": ["--listen=0.0.0.0"]}, ["public_listen"]),
        ({"engine_flags": ["--listen"]}, ["public_listen"]),
        ({"engine_flags": ["--listen", "--lowvram"]}, ["public_listen"]),
        ({"engine_flags": ["--listen", "127.0.0.1"]}, []),
        ({"engine_address": "192.0.2.1"}, ["public_listen"]),
        ({"engine_flags": ["--enable-cors-header"]}, ["open_cors"]),
        ({"engine_flags": ["--enable-cors-header", "*"]}, ["open_cors"]),
        ({"engine_flags": ["--enable-cors-header=*"]}, ["open_cors"]),
        ({"engine_flags": ["--enable-cors-header", "https://a.example"]}, []),
        ({"service_users": ["ltxops", "root"]}, ["root_service"]),
        ({"service_users": ["root", "root"], "scope": "user"}, []),
        ({"nodes": [{"name": "x", "version": "main"}]}, ["unpinned_nodes"]),
        ({"nodes": [{"name": "x", "version": "v1.2.3"}]}, ["unpinned_nodes"]),
        ({"nodes": [{"name": "x", "version": "main"}], "engine": "embedded"}, []),
    ],
)
def test_what_would_leave_a_host_open_is_named(changes: dict[str, Any], expected: list[str]) -> None:  # R13
    assert found(**changes) == expected


def test_versions_with_holes_are_named_with_what_closes_them() -> None:  # R12
    nodes = [{"name": "ComfyUI-Manager", "version": "3.37"}]
    declared = risks.versions_of("git", "v0.27.0", nodes)
    said = risks.holes_in(declared, HOLES)
    assert len(said) == 3
    assert "CVE-2026-56670" in said[0]
    assert "0.28.0 or later" in said[0]
    assert "CVE-2025-67303" in said[1]
    assert "3.39.2 or 4.0.5 or later" in said[2]


def test_good_versions_commits_and_the_stand_in_are_quiet() -> None:
    assert risks.holes_in(risks.versions_of("git", "v0.28.0", []), HOLES) == []
    assert risks.holes_in(risks.versions_of("git", COMMIT, []), HOLES) == []
    assert risks.versions_of("embedded", "v0.1.0", []) == {}


@pytest.mark.parametrize("version", ["0.27.9", "v0.28.0", "3.38", "3.39.2", "4.0.4", "4.1", "1.0", "0.3"])
def test_preflight_and_doctor_judge_a_version_alike(version: str) -> None:
    for hole in HOLES:
        assert risks.is_open(version, list(hole["fixed"])) == versions.is_open(version, list(hole["fixed"]))


def test_the_holes_are_complete() -> None:
    file = Path(versions.__file__).with_name("holes.json")
    for hole in json.loads(file.read_text()):
        assert set(hole) == {"package", "names", "fixed", "what"}
        assert all(versions.numbers(it) for it in hole["fixed"])
