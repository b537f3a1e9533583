"""What unfinished downloads leave: kept for whoever still wants it, gone otherwise, never taken for whole."""

import os
from pathlib import Path

import pytest
from tests.integration.faulty_hub import MIB, FaultyHub, fetch_all, quick, write_manifest
from tests.integration.models_support import (
    CHECKPOINT,
    LORA,
    RunningHub,
    file_of,
    leave_part,
    leftovers,
    ltxops,
    run_sync,
    write_lock,
)
from tests.integration.mounts import mounted
from tests.integration.pace import large_file

from ltxops.errors import DiskFull
from ltxops.models import manifest
from ltxops.models.lock import load, lock_path
from ltxops.models.plan import wanted_files
from ltxops.models.store import Store

OPEN = "owner/open/deep/open.safetensors"


def test_what_another_profile_waits_for_stays_and_is_continued(hub: RunningHub, root: Path) -> None:
    # R17
    write_lock(hub)
    content = hub.file(OPEN).read_bytes()
    part = leave_part(root, file_of(hub, root, "open"), content[: len(content) // 2])
    abandoned = part.with_name("abandoned.safetensors.0123456789abcdef.part")
    abandoned.write_bytes(b"of a file that no profile has")
    assert run_sync(hub, root, "one").fetched == [LORA]
    assert part.exists() and not abandoned.exists()
    # A run that finds nothing to do leaves it as well.
    assert run_sync(hub, root, "one").present == 1
    assert part.exists()
    report = run_sync(hub, root, "open")
    sizes = sum((root / name).stat().st_size for name in report.fetched)
    assert CHECKPOINT in report.fetched
    assert report.bytes_fetched == sizes - len(content) // 2
    assert (root / CHECKPOINT).read_bytes() == content
    assert leftovers(root) == []


def test_the_part_of_a_version_that_no_lock_has_any_more_goes(hub: RunningHub, root: Path) -> None:
    # R17
    write_lock(hub)
    item = file_of(hub, root, "open")
    leave_part(root, item, b"half")
    lock = lock_path(hub.manifest_path)
    lock.write_text(lock.read_text(encoding="utf-8").replace(str(item.file.sha256), "ab" * 32))
    run_sync(hub, root, "one")
    assert leftovers(root) == []


def test_a_disk_that_unfinished_files_fill_is_explained_and_can_be_freed(tmp_path: Path) -> None:
    # R20
    for name in ("owner/lora/lora.safetensors", OPEN):
        large_file(tmp_path / "hub", name, 20 * MIB)
    with mounted(tmp_path, "tmpfs", "32m") as root, RunningHub(tmp_path) as hub:
        write_lock(hub)
        leave_part(root, file_of(hub, root, "open"), b"half")
        with pytest.raises(DiskFull, match=r"20\.0 MiB of the disk are unfinished files of other profiles"):
            run_sync(hub, root, "one")
        options = ("--manifest", hub.manifest_path, "--root", root, "--profile", "one")
        home = tmp_path / "home"
        plan = ltxops("plan", *options, "--reserve", "0", home=home)
        assert plan.returncode == 4 and "unfinished files of other profiles" in plan.stderr
        assert ltxops("prune", *options, "--yes", home=home).returncode == 0
        assert run_sync(hub, root, "one").fetched == [LORA]


def test_a_part_of_another_version_is_not_continued(tmp_path: Path, root: Path) -> None:
    # R18: what is left of the file is not asked for before the beginning is thrown away.
    files = {"big.safetensors": os.urandom(MIB) * 40}
    path = write_manifest(tmp_path, files)
    wanted = manifest.load(path)
    [item], _ = wanted_files(wanted.profile("all"), load(wanted), {})
    leave_part(root, item, b"X" * (20 * MIB), '127.0.0.1 "an older one"')
    with FaultyHub(files) as hub:
        fetch_all(path, root, quick(hub.url))
        assert hub.sent <= item.file.size + 8 * MIB
    assert (root / item.dest).read_bytes() == files["big.safetensors"]
    assert leftovers(root) == []


def test_killed_right_before_the_rename_no_byte_comes_twice(hub: RunningHub, root: Path) -> None:
    # R26
    write_lock(hub)
    content = hub.file("owner/lora/lora.safetensors").read_bytes()
    leave_part(root, file_of(hub, root, "lora"), content)
    hub.requests.clear()
    report = run_sync(hub, root, "one")
    assert (report.fetched, report.bytes_fetched, hub.requests) == ([LORA], 0, [])
    assert (root / LORA).read_bytes() == content
    assert leftovers(root) == []


def test_killed_right_after_the_rename_the_file_is_proven_where_it_is(hub: RunningHub, root: Path) -> None:
    # R26
    run_sync(hub, root, "one")
    leave_part(root, file_of(hub, root, "lora"), b"half").unlink()
    Store(root).ledger.forget(LORA)
    assert len(leftovers(root)) == 1
    hub.requests.clear()
    assert run_sync(hub, root, "one").adopted == [LORA]
    assert (hub.requests, leftovers(root)) == ([], [])
