"""`ltxops models` as a user calls it: exit codes, sentences, JSON, and what it leaves on the machine."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.models_support import LORA, RunningHub, ltxops

from ltxops.models import manifest
from ltxops.models.lock import load
from ltxops.models.store import Store


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with RunningHub(tmp_path, token="hf_right") as running:
        yield running


def options(hub: RunningHub, profile: str = "open") -> list[str]:
    root = hub.manifest_path.parent / "models"
    return ["--manifest", str(hub.manifest_path), "--profile", profile, "--root", str(root)]


def test_from_nothing_to_verified(hub: RunningHub, home: Path, tmp_path: Path) -> None:
    root = tmp_path / "models"
    plan = ltxops("plan", *options(hub), "--json", "--reserve", "0", home=home, HF_ENDPOINT=hub.url)
    planned = json.loads(plan.stdout)
    assert (plan.returncode, planned["ok"], planned["present"]) == (0, True, 0)
    assert {row["state"] for row in planned["files"]} == {"missing"}
    assert not root.exists()

    done = ltxops("sync", *options(hub), "--json", "--reserve", "0", home=home, HF_ENDPOINT=hub.url)
    synced = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert synced["ok"] and synced["profile"] == "open" and synced["present"] == 0
    assert len(synced["fetched"]) == len(planned["files"])
    assert synced["bytes_fetched"] == planned["bytes_to_fetch"]
    assert f"proven   {LORA}" in done.stderr

    # No network from here on: the hub would be refused.
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    again = ltxops("sync", *options(hub), "--json", home=home, **nowhere)
    assert json.loads(again.stdout)["present"] == len(planned["files"])
    assert ltxops("verify", *options(hub), home=home, **nowhere).returncode == 0
    assert ltxops("verify", *options(hub), "--deep", home=home, **nowhere).returncode == 0
    status = json.loads(ltxops("status", *options(hub), "--json", home=home, **nowhere).stdout)
    assert status["counts"] == {"present": len(planned["files"])} | dict.fromkeys(
        ("missing", "unproven", "outdated", "wrong"), 0
    )
    # The library that fetches keeps no cache and no settings of its own.
    assert list(home.iterdir()) == []


def test_verify_names_what_is_missing_and_what_is_bad(hub: RunningHub, home: Path, tmp_path: Path) -> None:
    path = tmp_path / "models" / LORA
    repair = f"run `ltxops models sync {' '.join(options(hub, 'one'))}`"
    never = ltxops("verify", *options(hub, "one"), home=home)
    assert never.returncode == 1
    assert "never fetched" in never.stderr and repair in never.stderr
    assert ltxops("sync", *options(hub, "one"), "--hub", hub.url, "--reserve", "0", home=home).returncode == 0

    stat = path.stat()
    path.write_bytes(b"X" + path.read_bytes()[1:])
    changed = ltxops("verify", *options(hub, "one"), home=home)
    assert changed.returncode == 3
    assert f"{LORA} has changed since it was proven" in changed.stderr and repair in changed.stderr
    # With its old time it passes a look at its stat; only --deep finds it.
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert ltxops("verify", *options(hub, "one"), home=home).returncode == 0
    deep = ltxops("verify", *options(hub, "one"), "--deep", home=home)
    assert deep.returncode == 3
    assert f"{LORA} has sha256" in deep.stderr

    path.unlink()
    missing = ltxops("verify", *options(hub, "one"), "--json", home=home)
    assert missing.returncode == 1
    assert f"{LORA} is missing" in json.loads(missing.stdout)["error"]


def test_a_misspelt_profile_is_answered_before_any_network(hub: RunningHub, home: Path) -> None:
    result = ltxops("sync", *options(hub, "opn"), "--hub", hub.url, home=home)
    assert result.returncode == 2
    assert result.stderr == (
        f"ltxops: {hub.manifest_path}: profile 'opn' is not defined; did you mean 'open'? "
        "(defined: one, open, gated)\n"
    )
    assert hub.requests == []


def test_an_unreachable_hub_exits_5_and_is_named(hub: RunningHub, home: Path) -> None:
    # R23
    result = ltxops("sync", *options(hub), "--hub", "http://127.0.0.1:9", home=home)
    assert result.returncode == 5
    assert "the hub http://127.0.0.1:9 could not be reached in 4 attempts" in result.stderr
    assert len(result.stderr.splitlines()) == 2, result.stderr


@pytest.mark.parametrize("url", ["huggingface.co", "ftp://example.org", "http://"])
def test_a_hub_that_is_no_url_exits_2(hub: RunningHub, home: Path, url: str) -> None:
    result = ltxops("sync", *options(hub), "--hub", url, home=home)
    assert result.returncode == 2
    assert url in result.stderr


def test_the_token_comes_from_the_environment_or_a_file(hub: RunningHub, home: Path, tmp_path: Path) -> None:
    # R28
    arguments = ("sync", *options(hub, "gated"), "--hub", hub.url, "--reserve", "0")
    assert ltxops(*arguments, home=home).returncode == 7
    assert ltxops(*arguments, home=home, HF_TOKEN="hf_wrong").returncode == 7
    file = tmp_path / "token"
    file.write_text("hf_right\n", encoding="utf-8")
    assert ltxops(*arguments, "--hf-token-file", file, home=home).returncode == 0
    shutil.rmtree(tmp_path / "models")
    assert ltxops(*arguments, home=home, HF_TOKEN="hf_right").returncode == 0
    file.write_text("\n", encoding="utf-8")
    assert ltxops(*arguments, "--hf-token-file", file, home=home).returncode == 2


def test_plan_exits_4_when_the_disk_is_too_small(hub: RunningHub, home: Path, tmp_path: Path) -> None:
    # R20
    result = ltxops("plan", *options(hub), "--hub", hub.url, "--reserve", "900TiB", "--json", home=home)
    planned = json.loads(result.stdout)
    assert (result.returncode, planned["ok"]) == (4, False)
    assert planned["bytes_short"] > 0
    assert "not enough disk" in result.stderr
    assert not (tmp_path / "models").exists()
    sync = ltxops("sync", *options(hub), "--hub", hub.url, "--reserve", "900TiB", home=home)
    assert sync.returncode == 4


def test_a_second_run_exits_6_or_waits(hub: RunningHub, home: Path, tmp_path: Path) -> None:
    # R22
    store = Store(tmp_path / "models")
    store.prepare()
    with store.exclusive():
        arguments = ("sync", *options(hub, "one"), "--hub", hub.url, "--reserve", "0")
        assert ltxops(*arguments, home=home).returncode == 6
        waited = ltxops(*arguments, "--wait", "0.5", home=home)
        assert (waited.returncode, "--wait" in waited.stderr) == (6, True)
    assert ltxops(*arguments, "--wait", "5", home=home).returncode == 0


def test_lock_writes_what_list_then_shows_without_a_hub(hub: RunningHub, home: Path) -> None:
    listing = ("list", "--manifest", hub.manifest_path, "--profile", "open", "--json")
    before = json.loads(ltxops(*listing, home=home).stdout)
    assert (before["unlocked"], before["total_bytes"]) == (["lora", "open", "folder"], 0)
    pattern = next(row for row in before["files"] if row["path"] == "*.safetensors")
    assert (pattern["size"], pattern["sha256"]) == (None, None)

    refused = ltxops("sync", *options(hub), "--hub", hub.url, "--require-lock", home=home)
    assert refused.returncode == 2
    assert "not locked: lora, open, folder" in refused.stderr

    lock = ("lock", "--manifest", hub.manifest_path, "--hub", hub.url, "--json")
    one = ltxops(*lock, "--profile", "one", home=home)
    assert json.loads(one.stdout)["locked"] == ["lora"]
    full = ltxops(*lock, home=home, HF_TOKEN="hf_right")
    assert json.loads(full.stdout)["changed"] == ["open", "folder", "gated"], full.stderr
    assert json.loads(ltxops(*lock, home=home, HF_TOKEN="hf_right").stdout)["changed"] == []

    after = json.loads(ltxops(*listing, home=home).stdout)
    assert after["unlocked"] == []
    assert after["total_bytes"] == sum(row["size"] for row in after["files"])
    assert set(after["files"][0]) == {"model", "repo", "path", "dest", "size", "sha256", "revision", "gated"}
    locked = load(manifest.load(hub.manifest_path))
    assert {file.path for file in locked["folder"].files if file.sha256 is None} >= {"config.json"}


def test_an_unwritable_or_absurd_root_exits_2(hub: RunningHub, home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for root in ("", "/", str(tmp_path / "file"), str(tmp_path / "file/models")):
        arguments = ("--manifest", hub.manifest_path, "--profile", "one", "--root", root, "--hub", hub.url)
        result = ltxops("sync", *arguments, home=home)
        assert result.returncode == 2, (root, result.stderr)
        assert root in result.stderr


def test_what_the_operating_system_refuses_is_one_sentence(
    hub: RunningHub, home: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path / "models")
    store.prepare()
    # A folder where the ledger goes fails for every user, root included.
    (tmp_path / "models/.ltxops/ledger.json").mkdir()
    result = ltxops("sync", *options(hub, "one"), "--hub", hub.url, "--reserve", "0", home=home)
    assert result.returncode == 1
    assert "ledger.json" in result.stderr
    assert "Traceback" not in result.stderr
