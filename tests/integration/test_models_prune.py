"""`ltxops models prune`: what goes, what stays, and how much that frees."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.integration.models_support import (
    CHECKPOINT,
    LORA,
    RunningHub,
    file_of,
    leave_part,
    ltxops,
    run_sync,
)

from ltxops.models.store import Store

FOLDER = "text_encoders/folder"


@pytest.fixture
def root(hub: RunningHub, tmp_path: Path) -> Path:
    """A root that holds the profile `open`."""
    root = tmp_path / "models"
    run_sync(hub, root)
    return root


def prune(hub: RunningHub, root: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    options = ("--manifest", hub.manifest_path, "--root", root)
    return ltxops("prune", *options, *args, home=root.parent / "home")


def told(result: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def everything(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}


def test_what_every_profile_wants_stays(hub: RunningHub, root: Path) -> None:
    before = everything(root)
    result = prune(hub, root, "--yes")
    assert (result.returncode, result.stdout) == (0, "nothing to remove\n")
    assert everything(root) == before


def test_without_yes_it_only_lists(hub: RunningHub, root: Path) -> None:
    before = everything(root)
    found = told(prune(hub, root, "--profile", "one", "--json"))
    assert {row["path"] for row in found["files"]} >= {CHECKPOINT, f"{FOLDER}/config.json"}
    assert not found["removed"] and found["bytes_freed"] > 0
    assert everything(root) == before
    text = prune(hub, root, "--profile", "one").stdout
    assert f"{CHECKPOINT}\n" in text and "do it with --yes" in text


def test_with_yes_they_go_with_their_folders_and_their_proofs(hub: RunningHub, root: Path) -> None:
    used = sum(path.stat().st_blocks * 512 for path in root.rglob("*.*") if path.is_file())
    gone = told(prune(hub, root, "--profile", "one", "--yes", "--json"))
    left = sum(path.stat().st_blocks * 512 for path in root.rglob("*.*") if path.is_file())
    assert abs(gone["bytes_freed"] - (used - left)) <= 65536
    assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == {
        LORA,
        ".ltxops/ledger.json",
        ".ltxops/lock",
    }
    # The folders of ComfyUI itself stay, empty or not.
    assert (root / "checkpoints").is_dir() and (root / "text_encoders").is_dir()
    assert not (root / FOLDER).exists()
    assert set(Store(root).ledger.files) == {LORA}
    assert prune(hub, root, "--profile", "one", "--yes").stdout == "nothing to remove\n"


def test_several_profiles_are_kept_together(hub: RunningHub, root: Path) -> None:
    both = ("--profile", "one", "--profile", "open")
    assert told(prune(hub, root, *both, "--json"))["files"] == []


def test_what_an_operator_put_there_stays_and_is_named(hub: RunningHub, root: Path) -> None:
    (root / "loras/mine.safetensors").write_bytes(b"mine")
    (root / "put_models_here").touch()
    (root / FOLDER / "notes.txt").write_text("mine", encoding="utf-8")
    # One that was replaced by hand, under the name of one of ours.
    (root / CHECKPOINT).write_bytes(b"mine, too")
    gone = told(prune(hub, root, "--profile", "one", "--yes", "--json"))
    kept = {row["path"]: row["reason"] for row in gone["kept"]}
    assert kept == {
        "loras/mine.safetensors": "not placed by ltxops",
        f"{FOLDER}/notes.txt": "not placed by ltxops",
        CHECKPOINT: "changed since ltxops placed it",
    }
    assert (root / CHECKPOINT).read_bytes() == b"mine, too"
    assert (root / FOLDER / "notes.txt").exists()


def test_what_was_adopted_is_not_ours(hub: RunningHub, tmp_path: Path) -> None:
    root = tmp_path / "models"
    (root / "checkpoints").mkdir(parents=True)
    (root / CHECKPOINT).write_bytes(hub.file("owner/open/deep/open.safetensors").read_bytes())
    assert run_sync(hub, root).adopted == [CHECKPOINT]
    gone = told(prune(hub, root, "--profile", "one", "--yes", "--json"))
    assert CHECKPOINT in {row["path"] for row in gone["kept"]}
    assert (root / CHECKPOINT).exists()


def test_one_of_ours_stays_ours_when_its_time_changes(hub: RunningHub, root: Path) -> None:
    os.utime(root / CHECKPOINT, ns=(0, 0))
    assert CHECKPOINT in {
        row["path"] for row in told(prune(hub, root, "--profile", "one", "--json"))["files"]
    }
    assert run_sync(hub, root).adopted == [CHECKPOINT]
    assert CHECKPOINT in {
        row["path"] for row in told(prune(hub, root, "--profile", "one", "--json"))["files"]
    }


def test_a_link_out_of_the_root_is_never_followed(hub: RunningHub, root: Path) -> None:
    outside = root.parent / "outside"
    (root / "checkpoints").rename(outside)
    (root / "checkpoints").symlink_to(outside)
    gone = told(prune(hub, root, "--profile", "one", "--yes", "--json"))
    assert (outside / "open.safetensors").exists()
    assert "checkpoints" in {row["path"] for row in gone["kept"]}
    assert CHECKPOINT not in {row["path"] for row in gone["files"]}


def test_the_wanted_file_behind_another_name_stays(hub: RunningHub, root: Path) -> None:
    # The same file by two ways: one of them is wanted.
    (root / "loras").rename(root / "real")
    (root / "loras").symlink_to("real")
    ledger = Store(root).ledger
    ledger.prove("real/renamed.safetensors", ledger.files[LORA])
    told(prune(hub, root, "--profile", "one", "--yes", "--json"))
    assert (root / LORA).exists()


def test_another_name_of_the_content_frees_nothing(hub: RunningHub, root: Path, tmp_path: Path) -> None:
    os.link(root / CHECKPOINT, tmp_path / "elsewhere")
    before = told(prune(hub, root, "--profile", "one", "--json"))
    row = next(row for row in before["files"] if row["path"] == CHECKPOINT)
    assert row["links"] == 2
    (tmp_path / "elsewhere").unlink()
    after = told(prune(hub, root, "--profile", "one", "--json"))
    assert after["bytes_freed"] - before["bytes_freed"] == (root / CHECKPOINT).stat().st_blocks * 512
    assert (
        told(prune(hub, root, "--profile", "one", "--yes", "--json"))["bytes_freed"] == after["bytes_freed"]
    )


def test_two_names_that_both_go_free_their_content_once(hub: RunningHub, root: Path) -> None:
    alone = told(prune(hub, root, "--profile", "one", "--json"))["bytes_freed"]
    os.link(root / CHECKPOINT, root / "checkpoints/twin.safetensors")
    ledger = Store(root).ledger
    ledger.prove("checkpoints/twin.safetensors", ledger.files[CHECKPOINT])
    assert told(prune(hub, root, "--profile", "one", "--json"))["bytes_freed"] == alone


def test_parts_that_nobody_waits_for_go_and_others_stay(hub: RunningHub, root: Path) -> None:
    item = file_of(hub, root, "lora")
    (root / LORA).unlink()
    wanted_part = leave_part(root, item, b"half")
    orphan = root / ".ltxops/incoming/orphan.safetensors.0123456789abcdef.part"
    orphan.write_bytes(b"orphan")
    gone = told(prune(hub, root, "--yes", "--json"))
    assert [row["path"] for row in gone["parts"]] == [orphan.relative_to(root).as_posix()]
    assert wanted_part.exists() and not orphan.exists()


def test_it_waits_for_no_sync_and_changes_nothing_then(hub: RunningHub, root: Path) -> None:
    # R22
    before = everything(root)
    with Store(root).exclusive():
        result = prune(hub, root, "--profile", "one", "--yes")
    assert result.returncode == 6
    assert everything(root) == before


def test_a_root_that_was_never_synced_is_left_alone(hub: RunningHub, tmp_path: Path) -> None:
    root = tmp_path / "fresh"
    assert prune(hub, root, "--yes").returncode == 2
    (root / "loras").mkdir(parents=True)
    (root / "loras/mine.safetensors").write_bytes(b"mine")
    assert told(prune(hub, root, "--yes", "--json"))["files"] == []
    assert everything(root) == {"loras", "loras/mine.safetensors"}


def test_a_misspelt_profile_exits_2(hub: RunningHub, root: Path) -> None:
    assert prune(hub, root, "--profile", "oen", "--yes").returncode == 2
    assert (root / CHECKPOINT).exists()
