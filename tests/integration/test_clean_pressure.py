"""`ltxops clean pressure` on small real file systems."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.clean_support import MIB, NEEDS_ROOT, SECOND, disk, free, marked, moment, run
from tests.integration.clean_support import make as make_file

from ltxops.upkeep.cleaners import clean_pressure

pytestmark = NEEDS_ROOT


@pytest.fixture(params=["tmpfs", "ext4"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An output folder on a disk of its own with about 24 MiB."""
    with disk(tmp_path, request.param, 24) as mountpoint:
        yield marked(mountpoint / "output")


def make(path: Path, mib: int) -> Path:
    return make_file(path, mib * MIB)


def pressure(
    folder: Path, min_free: int, *options: str, now_ns: int | None = None
) -> tuple[int, dict[str, Any], str]:
    ages = ("--older-than", "1s", "--min-free", f"{min_free}B")
    return run("pressure", "--dir", str(folder), *ages, *options, now_ns=now_ns)


def test_oldest_first_and_no_more_than_needed(output: Path) -> None:  # R44
    files = []
    for number in range(4):
        files.append(make(output / f"z{9 - number}" / f"{number}.mp4", 3))
        now = moment() + SECOND
    new = make(output / "new.mp4", 2)
    before = free(output)

    code, result, _ = pressure(output, before, now_ns=now)
    assert (code, result["deleted_files"]) == (0, 0)  # exactly enough is enough
    assert all(path.exists() for path in (*files, new))

    code, dry, _ = pressure(output, before + 4 * MIB, "--dry-run", now_ns=now)
    assert (code, dry["deleted_files"]) == (0, 2)
    assert all(path.exists() for path in files)
    code, result, _ = pressure(output, before + 4 * MIB, now_ns=now)
    assert (code, result["deleted"]) == (0, dry["deleted"])
    assert [path.exists() for path in files] == [False, False, True, True]
    assert new.exists()
    assert result["free_after"] >= before + 4 * MIB
    assert result["bytes_freed"] >= 6 * MIB
    # What the disk says it got back is what the report says, folders' own blocks aside.
    assert abs(result["free_after"] - result["free_before"] - result["bytes_freed"]) <= 16384


def test_still_low_exits_4_and_says_so(output: Path) -> None:  # R44, R37
    held, old = make(output / "held.mp4", 4), make(output / "old.mp4", 4)
    now = moment() + SECOND
    new = make(output / "new.mp4", 4)
    with held.open("rb"):
        code, result, errors = pressure(output, 20 * MIB, now_ns=now)
    assert code == 4
    assert (held.exists(), old.exists(), new.exists()) == (True, False, True)
    assert (result["ok"], result["exit_code"], result["kept_open"], result["kept_young"]) == (False, 4, 1, 1)
    assert "needs 20.0 MiB" in errors
    assert errors.count("ltxops:") == 1


def test_a_full_disk_is_relieved(output: Path) -> None:  # R37, R44
    make(output / "old.mp4", 4)
    held = make(output / "held.mp4", 4)
    with (output / "filler").open("wb", buffering=0) as filler:
        try:
            while filler.write(os.urandom(65536)):
                pass
        except OSError:
            pass
        time.sleep(1.1)
        assert free(output) < 65536
        with held.open("r+b"):
            code, result, _ = pressure(output, 3 * MIB)
        assert code == 0
        assert (result["deleted_files"], result["deleted"][0]["path"]) == (1, "old.mp4")
    assert held.exists()
    assert (output / "filler").exists()


def test_a_file_with_a_name_outside_makes_no_room_and_is_kept(output: Path) -> None:  # R40
    linked = make(output / "linked.mp4", 3)
    os.link(linked, output.parent / "keepsake.mp4")
    pair = make(output / "pair.mp4", 3)
    (output / "job").mkdir()
    os.link(pair, output / "job" / "pair.mp4")
    time.sleep(1.1)
    code, result, _ = pressure(output, free(output) + 2 * MIB)
    assert code == 0
    assert linked.exists()
    assert not pair.exists()
    assert not (output / "job").exists()  # R43
    assert (result["kept_linked"], result["deleted_files"]) == (1, 2)
    assert 3 * MIB <= result["bytes_freed"] < 4 * MIB


def test_many_small_files_go_oldest_first_in_several_looks(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # R44
    monkeypatch.setattr("ltxops.upkeep.selection.MOST", 10)  # as if a look could remember no more
    files = []
    for number in range(60):
        files.append(make_file(output / f"{number % 7}" / f"{99 - number}.png", 40_000))
        os.utime(files[-1], ns=(number, number))
        moment()  # the ctime decides
    time.sleep(1.1)
    wanted = free(output) + 30 * 36_000
    dry = clean_pressure(str(output), wanted, 1, dry_run=True)
    assert all(path.exists() for path in files)
    real = clean_pressure(str(output), wanted, 1)
    assert dry.deleted == real.deleted
    assert (dry.deleted_folders, dry.kept_young) == (real.deleted_folders, real.kept_young)
    gone = [path.exists() for path in files]
    assert gone == sorted(gone)
    assert 20 < real.deleted_files < 40
    assert real.failure is None


def test_a_dry_run_of_several_looks_goes_on_behind_what_is_in_use(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # R37, R44
    monkeypatch.setattr("ltxops.upkeep.selection.MOST", 3)
    files = [make_file(output / f"{number}" / "x.png", 40_000) for number in range(12)]
    time.sleep(1.1)
    wanted = free(output) + 20 * MIB  # more than there is: everything goes but what is in use
    with files[1].open("rb"), files[4].open("rb"):
        dry = clean_pressure(str(output), wanted, 1, dry_run=True)
        real = clean_pressure(str(output), wanted, 1)
    assert (dry.deleted, dry.deleted_folders, dry.kept_open) == (
        real.deleted,
        real.deleted_folders,
        real.kept_open,
    )
    assert (real.deleted_files, real.deleted_folders, real.kept_open) == (10, 10, 2)
    assert str(real.failure) and str(dry.failure)
