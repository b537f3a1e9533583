"""`ltxops clean ttl` as an operator runs it."""

import fcntl
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tests.integration.clean_support import LTXOPS, SECOND, moment, run

from ltxops.upkeep.cleaners import clean_ttl

ANY_AGE = 0


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / ".ltxops-output").touch()
    return folder


def make(path: Path, size: int = 5000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"v" * size)
    return path


def ttl(folder: Path, now_ns: int, *options: str) -> dict[str, Any]:
    code, result, errors = run("ttl", "--dir", str(folder), "--older-than", "1s", *options, now_ns=now_ns)
    assert code == 0, errors
    assert len(errors.splitlines()) == 1  # one log line a run
    return result


def test_old_goes_and_new_stays(output: Path) -> None:  # R41
    old = make(output / "sub" / "old.mp4")
    future = make(output / "future.mp4")
    os.utime(future, (time.time() + 86400,) * 2)
    now = moment() + SECOND
    copied = make(output / "copied.mp4")
    os.utime(copied, (0, 0))
    new_future = make(output / "new_future.mp4")
    os.utime(new_future, (time.time() + 86400,) * 2)
    fresh = make(output / "fresh.mp4")
    (output / "new-empty").mkdir()
    result = ttl(output, now)
    assert not old.exists()
    assert not old.parent.exists()
    assert not future.exists()
    assert all(path.exists() for path in (copied, new_future, fresh, output / "new-empty"))
    assert (result["deleted_files"], result["kept_young"]) == (2, 3)
    assert output.exists()


def test_old_and_new_side_by_side(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # R37, R40, R41
    # After an old file the next one takes a shorter way: whatever it is, the outcome is the same.
    kinds = ("old", "young", "open", "linked", "locked")
    for number in range(100):
        make(output / f"{number:03}-{kinds[number % 5]}.mp4")
    for path in output.glob("*-linked.mp4"):
        os.link(path, output.parent / path.name)
    now = moment() + SECOND
    monkeypatch.setattr(time, "time_ns", lambda: now)
    for path in output.glob("*-young.mp4"):
        path.touch()
    held = [path.open("rb") for path in (*output.glob("*-open.mp4"), *output.glob("*-locked.mp4"))]
    for file in held[20:]:
        fcntl.flock(file, fcntl.LOCK_EX)
    blocks = sum(path.stat().st_blocks * 512 for path in output.glob("*-old.mp4"))
    try:
        # In the process that has them open, which /proc is not asked about: the lease alone tells.
        dry, real = (clean_ttl(str(output), 1, dry_run).to_json() for dry_run in (True, False))
    finally:
        for file in held:
            file.close()
    told = ("deleted_files", "bytes_freed", "kept_open", "kept_young")
    assert [dry[key] for key in told] == [real[key] for key in told]
    assert [real[key] for key in told] == [40, blocks, 40, 20]
    left = {path.name.partition("-")[2] for path in output.glob("*.mp4")}
    assert left == {"young.mp4", "open.mp4", "locked.mp4"}
    assert len(list(output.parent.glob("*-linked.mp4"))) == 20


def test_a_dry_run_says_exactly_what_a_real_run_does(output: Path) -> None:
    make(output / "a" / "b" / "one.mp4", 100_000)
    make(output / "job" / "two.mp4")
    os.link(output / "job" / "two.mp4", output / "two.mp4")
    (output / "link.mp4").symlink_to("two.mp4")
    (output / "empty" / "deep").mkdir(parents=True)
    now = moment() + SECOND
    make(output / "new" / "three.mp4")
    before = sorted(output.rglob("*"))
    dry = ttl(output, now, "--dry-run")
    assert sorted(output.rglob("*")) == before
    real = ttl(output, now)
    told = ("deleted", "deleted_files", "deleted_folders", "bytes_freed", "kept_open", "kept_young", "ok")
    assert {key: dry[key] for key in told} == {key: real[key] for key in told}
    assert (dry["dry_run"], real["dry_run"]) == (True, False)
    assert {entry["path"] for entry in real["deleted"]} == {
        "a/b/one.mp4",
        "job/two.mp4",
        "two.mp4",
        "link.mp4",
    }
    assert sorted(path.name for path in output.iterdir()) == [".ltxops-output", "new"]


def test_a_job_copy_and_its_hard_link_go_together(output: Path) -> None:  # R43
    video = make(output / "video" / "clip.mp4", 50_000)
    (output / "req-1").mkdir()
    os.link(video, output / "req-1" / "clip.mp4")
    blocks = video.stat().st_blocks * 512
    report = clean_ttl(str(output), ANY_AGE)
    assert [path.name for path in output.iterdir()] == [".ltxops-output"]
    assert (report.deleted_files, report.deleted_folders, report.bytes_freed) == (2, 2, blocks)


def test_a_job_link_does_not_dangle(output: Path) -> None:  # R43
    video = make(output / "video" / "clip.mp4")
    (output / "req-1").mkdir()
    (output / "req-1" / "clip.mp4").symlink_to("../video/clip.mp4")
    kept = make(output / "kept.mp4")
    (output / "req-2").mkdir()
    (output / "req-2" / "kept.mp4").symlink_to(kept)
    with kept.open("rb"):
        report = clean_ttl(str(output), ANY_AGE)
    assert not video.exists()
    assert not (output / "req-1").exists()
    assert (output / "req-2" / "kept.mp4").read_bytes() == kept.read_bytes()
    assert report.failure is None


def test_a_hard_link_outside_keeps_its_bytes(output: Path, tmp_path: Path) -> None:  # R40
    mine, single = make(output / "video.mp4", 50_000), make(output / "single.mp4", 20_000)
    os.link(mine, tmp_path / "kept.mp4")
    blocks = single.stat().st_blocks * 512
    report = clean_ttl(str(output), ANY_AGE)
    assert not mine.exists()
    assert (tmp_path / "kept.mp4").read_bytes() == b"v" * 50_000
    assert (report.deleted_files, report.bytes_freed) == (2, blocks)


def test_a_sparse_file_frees_what_it_held(output: Path) -> None:  # R40
    with (output / "sparse.bin").open("wb") as file:
        file.truncate(2**30)
    assert clean_ttl(str(output), ANY_AGE).bytes_freed < 2**20


def test_names_that_are_not_text_and_deep_folders(output: Path) -> None:
    (output / os.fsdecode(b"bad-\xff\n.mp4")).write_bytes(b"v")
    deep = output
    for _ in range(300):
        deep = deep / "d"
    deep.mkdir(parents=True)
    make(deep / "video.mp4")
    report = clean_ttl(str(output), ANY_AGE)
    assert [path.name for path in output.iterdir()] == [".ltxops-output"]
    assert json.loads(json.dumps(report.to_json()))["deleted"][0]["path"] in (
        "bad-\\xff\\n.mp4",
        "d/" * 300 + "video.mp4",
    )
    assert report.deleted_folders == 300


def test_the_report_is_bounded_and_its_counts_are_whole(output: Path) -> None:
    for number in range(1050):
        (output / f"{number}.png").touch()
    result = clean_ttl(str(output), ANY_AGE).to_json()
    assert (len(result["deleted"]), result["deleted_truncated"], result["deleted_files"]) == (
        1000,
        True,
        1050,
    )


def test_special_files_stay(output: Path) -> None:
    os.mkfifo(output / "pipe")
    assert clean_ttl(str(output), ANY_AGE).deleted_files == 0
    assert (output / "pipe").exists()


def test_bad_values_exit_2(output: Path) -> None:
    video = make(output / "video.mp4")
    for options in (["ttl", "--older-than", "ten"], ["pressure", "--older-than", "1s", "--min-free", "512"]):
        done = subprocess.run(
            [*LTXOPS, "clean", options[0], "--dir", str(output), *options[1:]],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert repr(options[-1]) in done.stderr
    assert video.exists()


def test_it_works_in_crons_bare_environment(output: Path) -> None:  # R46
    make(output / "vidéo.mp4")
    time.sleep(1.1)
    done = subprocess.run(
        [*LTXOPS, "clean", "ttl", "--dir", str(output), "--older-than", "1s"],
        env={"PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "HOME": "/nonexistent"},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "deleted 1 files" in done.stdout
    assert done.stderr == ""
