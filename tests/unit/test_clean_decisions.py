"""Decisions of the cleaners that need no disk: which files are chosen, what a job may be, is there room."""

import os
import random
from pathlib import Path
from typing import Any

import pytest

from ltxops.errors import BadInput
from ltxops.upkeep.disk import free_bytes, shortage
from ltxops.upkeep.janitor_config import parse
from ltxops.upkeep.names import changed_at
from ltxops.upkeep.selection import Oldest, rank
from ltxops.upkeep.steps import KINDS, Step, check
from ltxops.upkeep.walk import Age, Folder

FOLDER = Folder(None, "", (1, 1), False)


def info(inode: int, seconds: int, blocks: int = 8, links: int = 1) -> os.stat_result:
    """Return what the kernel says of a file; times in seconds since the epoch."""
    fields = [0o100644, inode, 1, links, 0, 0, blocks * 512, *[seconds] * 3, *[float(seconds)] * 3]
    nanoseconds = [seconds * 10**9] * 3
    extra = dict(
        zip(("st_atime_ns", "st_mtime_ns", "st_ctime_ns"), nanoseconds, strict=True), st_blocks=blocks
    )
    return os.stat_result(fields, extra)


@pytest.mark.parametrize("seed", range(20))
def test_the_oldest_that_suffice_are_chosen_in_order(seed: int) -> None:  # R44
    chooser = random.Random(seed)
    files = [info(inode, chooser.randrange(1, 50), chooser.randrange(1, 9)) for inode in range(200)]
    wanted = chooser.randrange(1, 200 * 4 * 512)
    oldest = Oldest(wanted, 10**12, None)
    for file in files:
        oldest.add(FOLDER, f"{file.st_ino}", file)
    expected, so_far = [], 0
    for file in sorted(files, key=lambda file: (file.st_mtime_ns, file.st_ino)):
        if so_far >= wanted:
            break
        expected.append(file.st_ino)
        so_far += file.st_blocks * 512
    assert [file.key[1] for file in oldest.chosen()] == expected
    assert oldest.left_out == (len(expected) < len(files))


def test_another_look_goes_on_behind_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltxops.upkeep.selection.MOST", 7)
    files = [info(inode, inode % 5 + 1) for inode in range(40)]
    after, seen = None, []
    while True:
        look = Oldest(10**9, 10**12, after)
        for file in files:
            look.add(FOLDER, f"{file.st_ino}", file)
        for chosen in look.chosen():
            seen.append(chosen.key[1])
            after = rank(chosen, 10**12)
        if not look.left_out:
            break
    expected = sorted(files, key=lambda file: (file.st_mtime_ns, file.st_ino))
    assert seen == [file.st_ino for file in expected]


def test_all_names_of_a_file_are_kept_together() -> None:  # R43
    oldest = Oldest(10**9, 10**12, None)
    for name, file in (("a", info(1, 5, links=2)), ("b", info(2, 4)), ("c", info(1, 5, links=2))):
        oldest.add(FOLDER, name, file)
    assert [[name for _, name in file.names] for file in oldest.chosen()] == [["b"], ["a", "c"]]


def test_room_or_the_reason() -> None:
    assert shortage("/o", 512, 512) == ""
    reason = shortage("/o", 511 * 2**20, 512 * 2**20)
    assert "/o has 511.0 MiB free and needs 512.0 MiB" in reason
    assert free_bytes(Path("/")) > 0


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        ("temp", "/w/ComfyUI/output"),
        ("temp", "temp"),
        ("temp", "/w/../temp"),
        ("uploads", "/w/models/input"),
        ("parts", "/w/models"),
        ("logs", "/"),
        ("pip-cache", "/root/.cache"),
        ("hf-cache", "/w/models/huggingface"),
    ],
)
def test_a_step_takes_folders_of_its_kind_only(kind: str, folder: str) -> None:  # R39
    with pytest.raises(BadInput, match=f"step {kind}"):
        check(Step(kind, folder, 60))


@pytest.mark.parametrize(
    ("kind", "path", "owned"),
    [
        ("logs", "wrapper.log", False),
        ("logs", "wrapper.log.12", True),
        ("logs", "wrapper.log.2.gz", True),
        ("logs", "node_modules/x.log.1", False),
        ("parts", "gemma.safetensors.0123.part", True),
        ("parts", "gemma.safetensors", False),
        ("pip-cache", "wheels/a/b.whl", True),
        ("pip-cache", "README", False),
        ("hf-cache", "xet/chunk-cache/x", True),
        ("hf-cache", "hub/models--x/blobs/ab.incomplete", True),
        ("hf-cache", "hub/models--x/blobs/ab", False),
        ("hf-cache", "token", False),
    ],
)
def test_a_step_owns_its_own_files_only(kind: str, path: str, owned: bool) -> None:
    assert bool(KINDS[kind].owns(path)) is owned


PRESSURE: dict[str, Any] = {
    "name": "low",
    "every": "10m",
    "run": "pressure",
    "dir": "/w/ComfyUI/output",
    "older_than": "24h",
    "min_free": "512MiB",
}


def test_a_job_with_everything_is_understood() -> None:
    job = {
        **PRESSURE,
        "wrapper": {"database": "/state/jobs.sqlite3", "grace": "5m"},
        "steps": [
            {"kind": "temp", "dir": "/w/ComfyUI/temp"},
            {"kind": "logs", "dir": "/w/logs", "older_than": "7d"},
        ],
    }
    found = parse({"jobs": [job], "reports": "/state/cleanup"}, "f").jobs[0]
    assert found.wrapper is not None
    assert (found.wrapper.grace_seconds, found.wrapper.cap_seconds) == (300, 86400)
    assert found.steps == (Step("temp", "/w/ComfyUI/temp", 3600), Step("logs", "/w/logs", 604800))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"wrapper": {}}, "wrapper.database"),
        ({"wrapper": {"database": "/d", "grace": "5"}}, "wrapper.grace"),
        ({"wrapper": {"database": "/d", "cape": "5m"}}, "'cape'"),
        ({"steps": {"kind": "temp"}}, "steps is"),
        ({"steps": [{"kind": "weights", "dir": "/w/temp"}]}, "steps[0].kind"),
        ({"steps": [{"kind": "temp"}]}, "steps[0].dir"),
        ({"steps": [{"kind": "temp", "dir": "/w/temp", "older_than": 5}]}, "steps[0].older_than"),
        ({"steps": [{"kind": "temp", "dir": "/w/output"}]}, "steps[0]: step temp"),
        ({"name": "../low"}, "'../low'"),
    ],
)
def test_a_bad_job_is_named_by_its_key(change: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse({"jobs": [{**PRESSURE, **change}]}, "f")
    assert named in str(caught.value)


def test_ttl_takes_no_steps() -> None:
    ttl = {key: value for key, value in PRESSURE.items() if key != "min_free"} | {"run": "ttl", "steps": []}
    with pytest.raises(BadInput, match="'steps'"):
        parse({"jobs": [ttl]}, "f")


@pytest.mark.parametrize("seed", range(10))
def test_an_age_is_judged_by_when_a_file_changed(seed: int) -> None:  # R41
    chooser = random.Random(seed)
    age = Age(100)
    for _ in range(200):
        modified, changed = (age.now_ns // 10**9 + chooser.randrange(-250, 50) for _ in range(2))
        file = info(1, changed)
        mixed = os.stat_result(tuple(file), {"st_mtime_ns": modified * 10**9, "st_ctime_ns": changed * 10**9})
        expected = changed_at(modified * 10**9, changed * 10**9, age.now_ns) <= age.cutoff_ns
        assert age.is_old(mixed) is expected
