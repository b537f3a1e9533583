"""`ltxops models status`, `plan` and `verify --deep`: what they tell an operator."""

import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.integration.models_support import (
    CHECKPOINT,
    LORA,
    RunningHub,
    clean_environment,
    command,
    file_of,
    leave_part,
    ltxops,
    run_sync,
)


@pytest.fixture
def root(hub: RunningHub, tmp_path: Path) -> Path:
    """A root that holds the profile `open`."""
    root = tmp_path / "models"
    run_sync(hub, root)
    return root


def run(hub: RunningHub, root: Path, verb: str, *args: str) -> "subprocess.CompletedProcess[str]":
    options = ("--manifest", hub.manifest_path, "--root", root)
    return ltxops(verb, *options, *args, home=root.parent / "home", HF_ENDPOINT=hub.url)


def told(result: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def half_arrived(hub: RunningHub, root: Path) -> int:
    """Take the LoRA away and leave the first half of it as a part; return its size."""
    item = file_of(hub, root, "lora")
    content = (root / LORA).read_bytes()
    (root / LORA).unlink()
    leave_part(root, item, content[: len(content) // 2])
    return len(content)


def test_status_shows_every_profile_and_what_is_on_its_way(hub: RunningHub, root: Path) -> None:
    size = half_arrived(hub, root)
    seen = told(run(hub, root, "status", "--json"))
    lora = next(row for row in seen["files"] if row["dest"] == LORA)
    assert (lora["state"], lora["arrived"]) == ("missing", size // 2)
    assert sum(row["dest"] == LORA for row in seen["files"]) == 1
    one, everything, gated = seen["profiles"]
    assert (one["profile"], one["files"], one["files_present"], one["size"]) == ("one", 1, 0, size)
    assert everything["files"] == everything["files_present"] + 1
    assert gated["files"] == 0 and gated["unresolved"] == seen["unresolved"] == ["gated"]
    text = run(hub, root, "status").stdout
    percent = 100 * (size // 2) // size
    assert f"arriving   {percent}%" in text and "present   100%" in text
    assert "profile one: 0 of 1 files, 0 B of " in text
    assert "unknown      ?          ?  loras/ (gated: not locked, not fetched yet)" in text
    assert "profile gated: 0 of 0 files, 0 B of 0 B, not counting what is unknown: gated\n" in text
    assert text.rstrip().endswith("free")
    elsewhere = run(hub, root / "typo", "status")
    assert elsewhere.stdout.rstrip().endswith(f"free; there is no {root / 'typo'} yet")
    assert told(run(hub, root, "status", "--profile", "one", "--json"))["profiles"] == [one]


def test_status_draws_bars_on_a_terminal(hub: RunningHub, root: Path) -> None:
    half_arrived(hub, root)
    leader, follower = pty.openpty()
    arguments = ("status", "--manifest", hub.manifest_path, "--root", root, "--profile", "open")
    environment = clean_environment(root.parent / "home", COLUMNS="120", TERM="xterm")
    process = subprocess.Popen(command(*arguments), stdout=follower, env=environment)
    os.close(follower)
    shown = b""
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:
            break
        if not data:
            break
        shown += data
    os.close(leader)
    assert process.wait(30) == 0
    text = shown.decode()
    assert "━" in text and "arriving" in text and "checkpoints/open.safetensors" in text
    assert "profile open: " in text


def test_plan_estimates_at_the_rate_given_or_known_or_assumed(hub: RunningHub, tmp_path: Path) -> None:
    root = tmp_path / "fresh"
    big = hub.file("owner/lora/lora.safetensors")
    big.write_bytes(os.urandom(1024) * 24 * 1024)
    with_big = RunningHub(tmp_path)
    with with_big:
        assumed = told(run(with_big, root, "plan", "--profile", "one", "--reserve", "0", "--json"))
        size = big.stat().st_size
        assert (assumed["rate_from"], assumed["seconds_estimated"]) == ("assumed", round(size / 125e6, 1))
        given = told(
            run(with_big, root, "plan", "--profile", "one", "--reserve", "0", "--rate", "1MB/s", "--json")
        )
        assert (given["rate_from"], given["seconds_estimated"]) == ("option", round(size / 1e6, 1))
        done = told(run(with_big, root, "sync", "--profile", "one", "--reserve", "0", "--json"))
        (root / LORA).unlink()
        text = run(with_big, root, "plan", "--profile", "one", "--reserve", "0").stdout
        assert "the rate of the last sync here" in text and "to fetch: 24.0 MiB, about " in text
        known = told(run(with_big, root, "plan", "--profile", "one", "--reserve", "0", "--json"))
        assert known["rate_from"] == "last sync"
        assert known["bytes_per_second"] == pytest.approx(size / done["seconds"], rel=0.01)
        wrong = run(with_big, root, "plan", "--profile", "one", "--rate", "fast")
        assert wrong.returncode == 2 and "write it like 100MB/s" in wrong.stderr


def test_verify_deep_names_every_bad_file_and_removes_none(hub: RunningHub, root: Path) -> None:
    for name in (LORA, CHECKPOINT):
        path = root / name
        stat, content = path.stat(), path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    unreadable = root / "text_encoders/folder/config.json"
    unreadable.unlink()
    unreadable.mkdir()
    (root / "text_encoders/folder/tokenizer.json").unlink()
    before = {path for path in root.rglob("*") if ".ltxops" not in path.parts}
    assert run(hub, root, "verify", "--profile", "one").returncode == 0
    result = run(hub, root, "verify", "--profile", "open", "--deep", "--json")
    assert result.returncode == 3
    found = told(result)
    assert [text.split(" ")[0] for text in found["bad"]] == [
        LORA,
        CHECKPOINT,
        "text_encoders/folder/config.json",
    ]
    assert "cannot be read" in found["bad"][2]
    assert found["missing"] == ["text_encoders/folder/tokenizer.json is missing"]
    assert LORA in result.stderr and CHECKPOINT in result.stderr
    # The others were hashed, and told while that went on.
    assert "proven   text_encoders/folder/model-00001-of-00005.safetensors" in result.stderr
    assert {path for path in root.rglob("*") if ".ltxops" not in path.parts} == before
