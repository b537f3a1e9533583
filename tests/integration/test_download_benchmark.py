"""The download benchmark as a command, with small files: who is run, what is written, what is left behind."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from benchmarks import measure, tree, warm
from tests.support import wait_for

CHECKOUT = Path(__file__).parents[2]


def benchmark(work: Path, *arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    work.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.download", "--work", str(work), *map(str, arguments)],
        cwd=CHECKOUT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def results_of(path: Path) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = json.loads(path.read_text())["results"]
    return results


def test_every_client_ends_with_the_same_bytes(tmp_path: Path) -> None:
    report, markdown, svg = tmp_path / "r.json", tmp_path / "r.md", tmp_path / "r.svg"
    done = benchmark(
        tmp_path / "work",
        *("--scale", "0.001", "--repeat", "1", "--scenarios", "unlimited", "warm"),
        *("--json", report, "--markdown", markdown, "--plot", svg),
    )
    results = results_of(report)
    assert len([one for one in results if one["scenario"] == "unlimited"]) == 6
    assert len([one for one in results if one["scenario"] == "warm"]) == 6
    assert [one["client"] for one in results if one["scenario"] == "warm-150gb"] == ["ltxops"]
    assert [one["verdict"] for one in results] == ["right"] * 13
    # Files this small say nothing about speed, so a bar may be missed.
    assert done.returncode == int("MISSED" in done.stdout), done.stderr
    assert "stand-ins" in done.stderr
    assert "aria2c -x16 + checksum" in markdown.read_text() and "</svg>" in svg.read_text()
    assert list((tmp_path / "work").iterdir()) == []


def test_a_peer_that_takes_bad_bytes_for_good_is_told(tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    done = benchmark(
        tmp_path / "work",
        *("--scale", "0.01", "--scenarios", "faults", "--clients", "curl", "--fault-seconds", "10"),
        *("--json", report),
    )
    found = {one["scenario"]: one for one in results_of(report)}
    assert done.returncode == 0, done.stderr
    assert (found["fault-flip"]["exit_code"], found["fault-flip"]["bad"]) == (0, [tree.ONE])
    assert (found["fault-short"]["exit_code"], found["fault-short"]["bad"]) == (0, [tree.ONE])
    assert found["fault-stall"]["exit_code"] is None and found["fault-stall"]["seconds"] >= 10
    assert found["fault-ignored-range"]["right"]


def test_a_missing_program_is_named_with_what_installs_it(tmp_path: Path) -> None:
    done = benchmark(tmp_path, "--clients", "aria2c", "curl", PATH=str(tmp_path))
    assert done.returncode == 2
    assert "aria2c (`apt-get install aria2`), curl (`apt-get install curl`)" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_room_is_refused(tmp_path: Path) -> None:
    done = benchmark(tmp_path, "--clients", "curl", "--scale", "1000000")
    assert (done.returncode, list(tmp_path.iterdir())) == (4, [])
    assert "free and" in done.stderr


def test_the_judge_finds_what_is_missing_and_what_is_bad(tmp_path: Path) -> None:
    promises = tree.write_tree(tmp_path, 0.0001)
    folder = tmp_path / tree.REPO
    assert tree.judge(folder, promises) == tree.Judgement((), ())
    names = list(promises)
    (folder / names[0]).unlink()
    (folder / names[1]).write_bytes(b"x" * promises[names[1]].size)
    (folder / names[2]).write_bytes(b"")
    assert tree.judge(folder, promises) == tree.Judgement((names[0],), (names[1], names[2]))


def test_a_whole_tree_of_processes_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"

    def tree_memory(root: int) -> int:
        if (found := sample(root)) > 80_000_000:
            seen.touch()
        return found

    sample = measure.tree_memory
    monkeypatch.setattr(measure, "tree_memory", tree_memory)
    child = (
        "x = b'x' * 80_000_000; import os, time\nwhile time.process_time() < 0.5: pass\n"
        f"while not os.path.exists('{seen}'): time.sleep(0.02)"
    )
    command = ["bash", "-c", f'{sys.executable} -c "{child}"; exit 7']
    measured = measure.measure(command, os.environ, tmp_path / "log", 60)
    assert measured.exit_code == 7
    assert 80_000_000 < measured.peak_bytes < 200_000_000
    assert 0.45 <= measured.cpu_seconds <= measured.seconds + 0.5


def test_nothing_is_left_running_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "alive"

    def tree_memory(root: int) -> int:
        wait_for(mark.exists)
        return sample(root)

    def stays_away() -> bool:
        mark.unlink(missing_ok=True)
        time.sleep(0.3)
        return not mark.exists()

    sample = measure.tree_memory
    monkeypatch.setattr(measure, "tree_memory", tree_memory)
    command = ["bash", "-c", f"(while true; do date > {mark}; sleep 0.05; done) & wait"]
    measured = measure.measure(command, os.environ, tmp_path / "log", 0.5)
    assert measured.exit_code is None and measured.seconds < 60
    # What is killed in the middle of making the file may still do so.
    wait_for(stays_away, 10)


@pytest.mark.parametrize("opened", [False, True])
def test_an_opened_weight_is_noticed(tmp_path: Path, opened: bool) -> None:
    _, root = warm.write_store(str(tmp_path))
    with warm.opens(root / "loras") as opens:
        files = sorted((root / "loras").iterdir())
        sizes = [path.stat().st_size for path in files]
        if opened:
            files[3].open("rb").close()
    assert sum(sizes) == 150_000_000_000
    assert opens.count == int(opened)
