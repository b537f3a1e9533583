"""`ltxops models lock` and `lock --check`: what moved on the hub is named, what is pinned stays."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.integration.models_support import RunningHub, ltxops

from ltxops.embedded.hub import read_repositories
from ltxops.models import manifest
from ltxops.models.lock import load, lock_path

OLD_COMMIT = "0123456789abcdef0123456789abcdef01234567"
MANIFEST = f"""\
version: 1
models:
  moving: {{repo: owner/moving, file: moving.safetensors, dest: loras/, revision: main}}
  folder: {{repo: owner/folder, files: ["*.safetensors", "*.json"], dest: text_encoders/folder/}}
  pinned: {{repo: owner/pinned, file: pinned.safetensors, dest: loras/, revision: {OLD_COMMIT}}}
profiles:
  all: {{models: [moving, folder, pinned]}}
  some: {{models: [pinned]}}
"""

Result = subprocess.CompletedProcess[str]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    (tmp_path / "models.yaml").write_text(MANIFEST, encoding="utf-8")
    with RunningHub(tmp_path) as running:
        running.fault = keep_old_commit
        yield running


async def keep_old_commit(request: web.Request) -> web.StreamResponse | None:
    """Answer for the old commit as the hub does for ever: the embedded hub has no history of its own."""
    if f"/resolve/{OLD_COMMIT}/" not in request.path:
        return None
    return web.Response(headers={"X-Repo-Commit": OLD_COMMIT, "ETag": f'"{"e" * 64}"', "X-Linked-Size": "5"})


def lock(hub: RunningHub, *args: str) -> Result:
    options = ("--manifest", hub.manifest_path, "--hub", hub.url)
    return ltxops("lock", *options, *args, home=hub.manifest_path.parent / "home")


def told(result: Result, code: int = 0) -> dict[str, Any]:
    assert result.returncode == code, result.stderr
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def push(hub: RunningHub, name: str, content: bytes | None) -> None:
    """Make a new commit on the hub with another content of one file, or without it."""
    path = hub.file(name)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    hub.repositories.update(read_repositories(manifest.load(hub.manifest_path), hub.folder))


def test_nothing_moved_is_no_drift_and_the_order_is_the_manifests(hub: RunningHub) -> None:
    assert told(lock(hub, "--json"))["changed"] == ["moving", "folder", "pinned"]
    first = lock_path(hub.manifest_path).read_bytes()
    assert told(lock(hub, "--check", "--json"))["ok"]
    assert told(lock(hub, "--json"))["changes"] == []
    assert lock_path(hub.manifest_path).read_bytes() == first
    locked = load(manifest.load(hub.manifest_path))
    assert list(locked) == ["moving", "folder", "pinned"]
    paths = [file.path for file in locked["folder"].files]
    assert paths == sorted(paths) and "model-00005-of-00005.safetensors" in paths


def test_a_moved_branch_is_drift_and_a_pinned_commit_is_not(hub: RunningHub) -> None:
    lock(hub)
    before = lock_path(hub.manifest_path).read_bytes()
    old = load(manifest.load(hub.manifest_path))["moving"]
    push(hub, "owner/moving/moving.safetensors", b"new bytes")
    push(hub, "owner/pinned/pinned.safetensors", b"new bytes, too")

    checked = lock(hub, "--check", "--json")
    drift = told(checked, 1)
    assert drift["changed"] == ["moving"] and "moving" in drift["error"]
    [change] = drift["changes"]
    assert change["kind"] == "changed"
    assert change["old"]["files"][0]["sha256"] == old.files[0].sha256
    assert (change["new"]["files"][0]["size"], change["old"]["revision"]) == (9, old.revision)
    assert lock_path(hub.manifest_path).read_bytes() == before

    text = lock(hub).stdout
    new = load(manifest.load(hub.manifest_path))["moving"]
    assert f"revision {old.revision[:12]} -> {new.revision[:12]}" in text
    assert f"{old.files[0].size} bytes" in text and "-> 9 bytes (9 B), sha256 " in text
    assert told(lock(hub, "--check", "--json"))["ok"]


def test_files_that_come_and_go_behind_a_pattern_are_drift(hub: RunningHub) -> None:
    lock(hub)
    push(hub, "owner/folder/extra.json", b"{}")
    push(hub, "owner/folder/config.json", None)
    push(hub, "owner/folder/README.md", b"not asked for")
    result = lock(hub, "--check")
    assert result.returncode == 1
    assert "  extra.json: nothing -> 2 bytes (2 B), git_blob " in result.stdout
    assert "  config.json: " in result.stdout and "-> nothing\n" in result.stdout
    assert "README.md" not in result.stdout
    assert "folder; run `ltxops models lock`" in result.stderr


def test_what_is_not_locked_and_what_is_no_longer_wanted_is_drift(hub: RunningHub) -> None:
    lock(hub)
    text = hub.manifest_path.read_text(encoding="utf-8")
    hub.manifest_path.write_text(text.replace("  moving:", "  renamed:").replace("[moving", "[renamed"))
    drift = told(lock(hub, "--check", "--json"), 1)
    assert (drift["changed"], drift["removed"]) == (["renamed"], ["moving"])
    assert drift["changes"][0]["old"] is None
    assert told(lock(hub, "--json"))["removed"] == ["moving"]
    assert list(load(manifest.load(hub.manifest_path))) == ["renamed", "folder", "pinned"]


def test_a_check_without_a_lock_writes_none(hub: RunningHub) -> None:
    assert told(lock(hub, "--check", "--profile", "some", "--json"), 1)["changed"] == ["pinned"]
    assert not lock_path(hub.manifest_path).exists()


def test_an_entry_that_asks_for_something_else_now_is_shown_with_both(hub: RunningHub) -> None:
    lock(hub)
    text = hub.manifest_path.read_text(encoding="utf-8")
    hub.manifest_path.write_text(text.replace("dest: loras/, revision: main", "dest: loras/"))
    result = lock(hub, "--check")
    assert result.returncode == 1
    assert (
        "asks for owner/moving moving.safetensors at main -> owner/moving moving.safetensors\n"
        in result.stdout
    )


def test_the_overlay_has_a_lock_of_its_own(hub: RunningHub) -> None:
    hub.manifest_path.with_name("models.local.yaml").write_text(
        "version: 1\nmodels:\n  mine: {repo: owner/moving, file: moving.safetensors, dest: vae/}\n"
        "profiles: {local: {models: [mine]}}\n",
        encoding="utf-8",
    )
    assert told(lock(hub, "--check", "--json"), 1)["changed"] == ["moving", "folder", "pinned", "mine"]
    lock(hub)
    local = hub.manifest_path.with_name("models.local.lock.yaml").read_text(encoding="utf-8")
    assert "mine:" in local and "moving:" not in local and "models.local.yaml" in local
    assert "mine:" not in lock_path(hub.manifest_path).read_text(encoding="utf-8")
    assert told(lock(hub, "--check", "--json"))["ok"]
