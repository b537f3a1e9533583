"""What else goes when old outputs do not make enough room: the configured steps, on small real disks."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.clean_support import LTXOPS, MIB, NEEDS_ROOT, disk, free, make, marked, run

pytestmark = NEEDS_ROOT


@pytest.fixture(params=["tmpfs", "ext4"])
def comfyui(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A ComfyUI folder with a marked output folder, on a disk of its own with about 24 MiB."""
    with disk(tmp_path, request.param, 24) as mountpoint:
        folder = mountpoint / "ComfyUI"
        marked(folder / "output")
        yield folder


def configure(comfyui: Path, min_free: int, steps: list[dict[str, str]], **more: Any) -> Path:
    job = {
        "name": "pressure",
        "every": "10m",
        "run": "pressure",
        "dir": str(comfyui / "output"),
        "older_than": "1s",
        "min_free": f"{min_free}B",
        "steps": steps,
    }
    file = comfyui.parent.parent / "janitor.yaml"
    file.write_text(json.dumps({"jobs": [job], **more}))
    return file


def pressure(config: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    code, result, errors = run("pressure", "--config", str(config), *options)
    return code, result["runs"][0], errors


def all_kinds(comfyui: Path) -> tuple[list[dict[str, str]], list[Path], list[Path]]:
    """Return steps of every kind, a file of each that goes, and what stays in the same folders."""
    incoming, logs = comfyui / "models/.ltxops/incoming", comfyui / "logs"
    pip, hub = comfyui / "cache/pip", comfyui / "cache/huggingface"
    go = [
        comfyui / "temp/preview.png",
        comfyui / "input/upload.png",
        logs / "wrapper.log.1",
        incoming / "gemma.safetensors.0123456789abcdef.part",
        pip / "http-v2/a/b/body",
        hub / "xet/chunk-cache/x",
    ]
    stay = [
        comfyui / "temp/lora.safetensors",
        comfyui / "input/example.png",
        logs / "wrapper.log",
        incoming / "whole.safetensors",
        pip / "README",
        hub / "hub/models--x/blobs/0123",
    ]
    kinds = ("temp", "uploads", "logs", "parts", "pip-cache", "hf-cache")
    folders = (comfyui / "temp", comfyui / "input", logs, incoming, pip, hub)
    steps = [
        {"kind": kind, "dir": str(folder), "older_than": "1s"}
        for kind, folder in zip(kinds, folders, strict=True)
    ]
    return steps, [make(path, MIB) for path in go], [make(path, MIB // 4) for path in stay]


def test_each_kind_takes_its_own_and_nothing_else(comfyui: Path) -> None:  # R39, R44
    steps, go, stay = all_kinds(comfyui)
    old = make(comfyui / "output/old.mp4", MIB)
    time.sleep(1.1)
    config = configure(comfyui, 100 * MIB, steps)
    code, dry, _ = pressure(config, "--dry-run")
    assert code == 4
    assert all(path.exists() for path in (old, *go, *stay))
    code, real, errors = pressure(config)
    assert code == 4
    assert not any(path.exists() for path in (old, *go))
    assert all(path.exists() for path in stay)
    told = ("deleted", "deleted_files", "deleted_folders", "bytes_freed", "steps", "error", "kept_young")
    differing = {key: (dry[key], real[key]) for key in told if dry[key] != real[key]}
    # What is free at the end is the disk's own word, which includes the blocks of the folders.
    assert set(differing) <= {"error"}
    assert [step["deleted_files"] for step in real["steps"]] == [1] * 6
    assert [entry["path"] for entry in real["deleted"]] == ["old.mp4", *map(str, go)]
    assert "free space by hand" in errors


def test_steps_go_in_order_and_stop_when_there_is_room(comfyui: Path) -> None:  # R44
    steps, go, _ = all_kinds(comfyui)
    time.sleep(1.1)
    code, result, _ = pressure(configure(comfyui, free(comfyui) + MIB + MIB // 2, steps))
    assert code == 0
    assert [path.exists() for path in go] == [False, False, True, True, True, True]
    assert [step["kind"] for step in result["steps"]] == ["temp", "uploads"]


def test_weights_around_the_logs_keep_them(comfyui: Path) -> None:  # R39
    make(comfyui / "models/checkpoints/x.safetensors", MIB)
    log = make(comfyui / "x.log.1", MIB)
    time.sleep(1.1)
    code, result, _ = pressure(
        configure(comfyui, 100 * MIB, [{"kind": "logs", "dir": str(comfyui), "older_than": "1s"}])
    )
    assert (code, result["steps"][0]["note"]) == (4, "left alone")
    assert log.exists()


def test_outputs_go_before_any_step(comfyui: Path) -> None:
    steps, go, _ = all_kinds(comfyui)
    make(comfyui / "output/old.mp4", MIB)
    time.sleep(1.1)
    code, result, _ = pressure(configure(comfyui, free(comfyui) + MIB // 2, steps))
    assert (code, result["steps"]) == (0, [])
    assert all(path.exists() for path in go)


def test_a_step_keeps_what_is_open_and_what_is_young(comfyui: Path) -> None:  # R37, R41
    held = make(comfyui / "input/held.png", MIB)
    time.sleep(5.1)
    fresh = make(comfyui / "input/fresh.png", MIB)
    steps = [{"kind": "uploads", "dir": str(comfyui / "input"), "older_than": "5s"}]
    with held.open("rb"):
        code, result, _ = pressure(configure(comfyui, 100 * MIB, steps))
    assert (code, result["kept_open"]) == (4, 1)
    assert held.exists()
    assert fresh.exists()


def test_without_an_age_uploads_stay_for_a_day(comfyui: Path) -> None:
    upload = make(comfyui / "input/upload.png", MIB)
    steps = [{"kind": "uploads", "dir": str(comfyui / "input")}]
    code, result, _ = pressure(configure(comfyui, 100 * MIB, steps))
    assert (code, result["deleted_files"]) == (4, 0)
    assert upload.exists()


def test_another_disk_and_a_missing_folder_are_passed_over(comfyui: Path, tmp_path: Path) -> None:
    elsewhere = make(tmp_path / "elsewhere/logs/x.log.1", MIB)
    time.sleep(1.1)
    steps = [
        {"kind": "logs", "dir": str(elsewhere.parent), "older_than": "1s"},
        {"kind": "temp", "dir": str(comfyui / "temp")},
    ]
    code, result, _ = pressure(configure(comfyui, 100 * MIB, steps))
    assert code == 4
    assert elsewhere.exists()
    assert [step["note"] for step in result["steps"]] == ["on another disk", "no such folder"]


def test_a_folder_that_a_link_leads_to_is_no_step(comfyui: Path) -> None:  # R38
    # Whoever may write in ComfyUI's folder must not be able to point a cleaner that is root elsewhere.
    other = make(comfyui.parent / "home/temp/precious", MIB)
    (comfyui / "temp").symlink_to(other.parent)
    time.sleep(1.1)
    for folder in (comfyui / "temp", other.parent):
        steps = [{"kind": "temp", "dir": str(folder), "older_than": "1s"}]
        code, result, _ = pressure(configure(comfyui, 100 * MIB, steps))
        assert code == 4
        assert other.exists()
        assert result["steps"][0]["note"] == "left alone"
        assert result["problems"]


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        ("temp", "output"),
        ("temp", "models/temp"),
        ("uploads", "models/input"),
        ("parts", "models"),
        ("parts", "models/checkpoints"),
        ("logs", "models"),
        ("hf-cache", "models/huggingface"),
    ],
)
def test_a_folder_of_another_kind_exits_2(comfyui: Path, kind: str, folder: str) -> None:  # R39
    weight = make(comfyui / "models/checkpoints/x.safetensors", MIB)
    old = make(comfyui / "output/old.mp4", MIB)
    time.sleep(1.1)
    config = configure(comfyui, 100 * MIB, [{"kind": kind, "dir": str(comfyui / folder)}])
    done = subprocess.run(
        [*LTXOPS, "clean", "pressure", "--config", str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"jobs[0].steps[0]: step {kind}" in done.stderr
    assert weight.exists()
    assert old.exists()


def test_a_log_on_the_full_disk_does_not_hide_the_exit_code(comfyui: Path) -> None:  # R37, R44
    config = configure(comfyui, 100 * MIB, [], reports=str(comfyui / "reports"))
    log = comfyui / "cleanup.log"
    held = make(comfyui / "output/held.mp4", MIB)
    with (comfyui / "filler").open("wb", buffering=0) as filler, held.open("rb"), log.open("ab") as sink:
        try:
            while filler.write(os.urandom(65536)):
                pass
        except OSError:
            pass
        done = subprocess.run(
            [*LTXOPS, "clean", "pressure", "--config", str(config)], stdout=sink, stderr=sink, check=False
        )
    assert done.returncode == 4
    assert held.exists()
