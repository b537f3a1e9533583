"""`ltxops clean pressure` on small real file systems."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LTXOPS = [sys.executable, "-m", "ltxops.cli.main"]
MIB = 2**20

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="SKIPPED, NOT PROVEN: needs root to mount small file systems"
)


@pytest.fixture(params=["tmpfs", "ext4"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An output folder on a disk of its own with about 24 MiB."""
    mountpoint = tmp_path / "disk"
    mountpoint.mkdir()
    if request.param == "tmpfs":
        mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(mountpoint)]
    else:
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(26 * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(image)], check=True)
        mount = ["mount", "-o", "loop", str(image), str(mountpoint)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"SKIPPED, NOT PROVEN: cannot mount a {request.param}: {done.stderr.strip()}")
    try:
        folder = mountpoint / "output"
        folder.mkdir()
        (folder / ".ltxops-output").touch()
        yield folder
    finally:
        subprocess.run(["umount", str(mountpoint)], check=True)


def make(path: Path, mib: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(os.urandom(mib * MIB))
        os.fsync(file.fileno())
    return path


def free(folder: Path) -> int:
    usage = os.statvfs(folder)
    return usage.f_bavail * usage.f_frsize


def pressure(folder: Path, min_free: int, *options: str) -> tuple[int, dict[str, Any], str]:
    command = [*LTXOPS, "clean", "pressure", "--dir", str(folder), "--older-than", "1s", "--json"]
    done = subprocess.run(
        [*command, "--min-free", f"{min_free}B", *options], capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout), done.stderr


def test_oldest_first_and_no_more_than_needed(output: Path) -> None:  # R44
    files = []
    for number in range(4):
        files.append(make(output / f"z{9 - number}" / f"{number}.mp4", 3))
        time.sleep(0.02)
    time.sleep(1.1)
    new = make(output / "new.mp4", 2)
    before = free(output)

    code, result, _ = pressure(output, before)
    assert (code, result["deleted_files"]) == (0, 0)  # exactly enough is enough
    assert all(path.exists() for path in (*files, new))

    code, dry, _ = pressure(output, before + 4 * MIB, "--dry-run")
    assert (code, dry["deleted_files"]) == (0, 2)
    assert all(path.exists() for path in files)
    code, result, _ = pressure(output, before + 4 * MIB)
    assert (code, result["deleted"]) == (0, dry["deleted"])
    assert [path.exists() for path in files] == [False, False, True, True]
    assert new.exists()
    assert result["free_after"] >= before + 4 * MIB
    assert result["bytes_freed"] >= 6 * MIB
    # What the disk says it got back is what the report says, folders' own blocks aside.
    assert abs(result["free_after"] - result["free_before"] - result["bytes_freed"]) <= 16384


def test_still_low_exits_4_and_says_so(output: Path) -> None:  # R44, R37
    held, old = make(output / "held.mp4", 4), make(output / "old.mp4", 4)
    time.sleep(1.1)
    new = make(output / "new.mp4", 4)
    with held.open("rb"):
        code, result, errors = pressure(output, 20 * MIB)
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
