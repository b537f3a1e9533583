"""When the watchdog restarts a program, what it reads from a log, and how it keeps its record."""

from pathlib import Path

import pytest

from ltxops.upkeep import faults, leftovers
from ltxops.upkeep.faults import KEPT, Fault, Record, kills_for_memory, kind_of
from ltxops.upkeep.leftovers import Seen
from ltxops.upkeep.supervisor import Process
from ltxops.upkeep.watchdog import (
    COOL_DOWN_SECONDS,
    KILL_SECONDS,
    Follower,
    Kills,
    Patience,
    Watched,
    kernel_kills,
)

PATIENCE = Patience(hang_seconds=10, start_seconds=100)


def process(pid: int = 7, state: str = "RUNNING") -> Process:
    return Process(state, pid, 100, 1, "", 0)


def test_silence_is_a_hang_only_when_it_lasts() -> None:  # R34
    watched = Watched(PATIENCE)
    assert watched.see(process(), True, 0.0) == ""
    assert watched.see(process(), False, 1.0) == ""
    assert watched.see(process(), False, 10.9) == ""
    assert watched.see(process(), False, 11.0) == "hang"


def test_one_answer_starts_the_silence_anew() -> None:
    watched = Watched(PATIENCE)
    for now, answered in ((0.0, True), (1.0, False), (9.0, True), (10.0, False), (19.0, False)):
        assert watched.see(process(), answered, now) == ""
    assert watched.see(process(), False, 20.0) == "hang"


def test_a_program_that_starts_has_longer() -> None:
    watched = Watched(PATIENCE)
    assert watched.see(process(), False, 0.0) == ""
    assert watched.see(process(), False, 99.0) == ""
    assert watched.see(process(), False, 100.0) == "hang"


@pytest.mark.parametrize("state", ["STARTING", "BACKOFF", "STOPPING", "STOPPED", "FATAL", "ABSENT"])
def test_what_does_not_run_is_supervisords_business(state: str) -> None:
    watched = Watched(PATIENCE)
    watched.see(process(), True, 0.0)
    assert watched.see(process(0, state), False, 1.0) == ""
    assert watched.see(process(0, state), False, 500.0) == ""


def test_another_process_is_noted_but_not_after_a_restart_of_its_own() -> None:
    watched = Watched(PATIENCE)
    watched.see(process(7), True, 0.0)
    assert watched.see(process(8), True, 1.0) == "restart"
    watched.restarting(2.0)
    assert watched.see(process(9), True, 3.0) == ""


def test_what_hangs_again_at_once_is_left_to_a_person_for_a_while() -> None:
    watched = Watched(PATIENCE)
    watched.see(process(), True, 0.0)
    watched.restarting(1.0)
    watched.see(process(8), True, 2.0)
    watched.see(process(8), False, 3.0)
    assert watched.see(process(8), False, 200.0) == ""
    assert watched.see(process(8), False, 1.0 + COOL_DOWN_SECONDS) == "hang"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "memory"),
        ("RuntimeError: CUDA error: out of memory", "memory"),
        ("MemoryError", "memory"),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", "cuda"),
        ("CUDA error: device-side assert triggered", "cuda"),
        ("got prompt", ""),
        ("Prompt executed in 12.3 seconds", ""),
    ],
)
def test_lines_of_a_log_are_told_apart(line: str, kind: str) -> None:  # R36
    assert kind_of(line) == kind


def test_a_kill_for_lack_of_memory_is_remembered_for_a_moment() -> None:  # R36
    assert kills_for_memory("nr_free_pages 7\noom_kill 3\noom_kill_other 9\n") == 3
    assert kills_for_memory("nr_free_pages 7\n") == 0
    kills = Kills(kernel_kills())
    kills.see(kills.count, 1.0)
    assert not kills.recent(1.0)
    kills.see(kills.count + 1, 2.0)
    kills.see(kills.count, 3.0)
    assert kills.recent(2.0 + KILL_SECONDS)
    assert not kills.recent(2.1 + KILL_SECONDS)


def test_a_log_is_followed_across_rotations_and_half_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("of before\n")
    follower = Follower(log)
    assert follower.lines() == []
    with log.open("a") as file:
        file.write("one\ntw")
    assert follower.lines() == ["one"]
    with log.open("a") as file:
        file.write("o\n")
    assert follower.lines() == ["two"]
    log.rename(tmp_path / "log.1")
    log.write_text("new file\n")
    assert follower.lines() == ["new file"]
    log.unlink()
    assert follower.lines() == []


def test_the_record_keeps_the_last_faults_and_counts_all(tmp_path: Path) -> None:
    record = Record([], {})
    for number in range(KEPT + 5):
        record.add(Fault(float(number), "comfyui", "hang", "x"))
    file = tmp_path / "watchdog.json"
    faults.save(file, record)
    again = faults.load(file)
    assert (len(again.faults), again.totals) == (KEPT, {"comfyui hang": KEPT + 5})
    assert len(again.since(KEPT)) == 5


@pytest.mark.parametrize("content", ["", "{", "[]", '{"faults": [{"at": 1}], "totals": {}}'])
def test_a_spoilt_record_is_begun_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.json").write_text(content)
    assert faults.load(tmp_path / "r.json").faults == []
    assert faults.load(tmp_path / "none.json").totals == {}


def test_only_processes_of_ours_without_a_leader_are_leftovers() -> None:  # R31
    seen = [
        Seen(10, 10, 1, "comfyui"),
        Seen(11, 10, 1, "comfyui"),
        Seen(21, 20, 1, "comfyui"),
        Seen(22, 22, 22, "comfyui"),
        Seen(24, 23, 23, "comfyui"),
        Seen(31, 30, 1, ""),
    ]
    assert leftovers.judge(seen, {1}) == {21: "comfyui"}
    assert leftovers.judge(seen, set()) == {}
