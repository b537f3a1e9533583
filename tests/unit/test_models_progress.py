"""How far a sync is: rate, time left, the sentence about it, and counting from many threads."""

import json
import os
import threading
from pathlib import Path

import pytest

from ltxops.errors import DiskFull
from ltxops.models.events import fields_of
from ltxops.models.progress import Happening, Outcome, Reporter, Sink, outcome_of
from ltxops.models.progress_file import ProgressFile, start_ticks
from ltxops.models.snapshot import (
    FileProgress,
    Snapshot,
    percent,
    rate_of,
    seconds_left,
    time_left,
    window_of,
)
from ltxops.models.tally import Tally
from ltxops.models.terminal import Lines

GIB = 1024**3
MIB = 1024**2


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def snapshot(total: int | None, done: int, rate: float = 0.0) -> Snapshot:
    under_way = (FileProgress("loras/a", 10, 5),)
    return Snapshot(total, done, rate, files_total=9, files_done=5, under_way=under_way, note="looking")


def test_a_rate_is_that_of_its_window() -> None:
    samples = [(0.0, 0), (1.0, 100), (2.0, 200), (12.0, 700)]
    assert window_of(samples, 12.0, 10.0) == [(2.0, 200), (12.0, 700)]
    assert window_of(samples, 12.5, 10.0) == [(2.0, 200), (12.0, 700)]
    assert rate_of(window_of(samples, 12.0, 10.0)) == 50.0


def test_a_rate_that_nobody_can_know_or_that_runs_backwards_is_none() -> None:
    assert rate_of([]) == rate_of([(1.0, 5)]) == rate_of([(1.0, 5), (1.0, 9)]) == 0.0
    assert rate_of([(0.0, 500), (1.0, 100)]) == 0.0


def test_the_time_left_is_known_only_while_bytes_arrive() -> None:
    assert seconds_left(100, 50.0) == 2.0
    assert seconds_left(0, 0.0) == 0.0
    assert seconds_left(100, 0.0) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (59.9, "60 s"), (89, "1 min"), (119, "2 min"), (3599, "1 h 0 min"), (12000, "3 h 20 min")],
)
def test_the_time_left_is_told_roughly(seconds: float, text: str) -> None:
    assert time_left(seconds) == text


def test_hundred_percent_means_all_of_it() -> None:
    assert (percent(999, 1000), percent(1000, 1000), percent(0, 0)) == (99, 100, 100)


def test_the_sentence_names_share_size_rate_time_and_files() -> None:
    told = snapshot(100 * GIB, 40 * GIB, 512 * MIB).summary()
    assert told == "40 % of 100.0 GiB, 512.0 MiB/s, about 2 min left, 5 of 9 files"
    assert snapshot(100 * GIB, 40 * GIB).summary() == "40 % of 100.0 GiB, 0 B/s, 5 of 9 files"
    assert snapshot(None, 0).summary() == "looking"


def test_bytes_of_earlier_runs_count_but_not_for_the_rate() -> None:
    clock = Clock()
    tally = Tally(clock)
    tally.expect(1000, 300, 2)
    assert tally.snapshot().bytes_done == 300
    tally.start("a", 600, 200)
    clock.now += 2
    tally.advance("a", 100)
    found = tally.snapshot()
    # 100 of the other file, which has not started, and 300 of this one.
    assert (found.bytes_done, found.rate_bytes_per_second) == (400, 50.0)
    assert found.under_way == (FileProgress("a", 600, 300),)
    assert found.eta_seconds == 12.0


def test_bytes_that_have_to_come_again_are_taken_back() -> None:
    tally = Tally(Clock())
    tally.expect(600, 200, 1)
    tally.start("a", 600, 200)
    tally.advance("a", 100)
    tally.advance("a", -300)
    assert tally.snapshot().bytes_done == 0
    # The same file from the start, as after a failure.
    tally.start("a", 600, 0)
    tally.advance("a", 60)
    assert tally.snapshot().under_way == (FileProgress("a", 600, 60),)


def test_a_file_in_its_place_is_whole_however_its_bytes_came() -> None:
    clock = Clock()
    tally = Tally(clock)
    tally.expect(1000, 0, 2)
    tally.start("linked", 600, 0)
    clock.now += 3
    assert tally.finish("linked", 600) == 3
    tally.finish("never started", 400)
    found = tally.snapshot()
    assert (found.bytes_done, found.files_done, found.under_way) == (1000, 2, ())
    assert found.rate_bytes_per_second == 0


def test_no_byte_is_lost_between_threads() -> None:
    tally = Tally()
    tally.expect(10**9, 0, 4)
    for name in "abcd":
        tally.start(name, 10**9, 0)

    def count() -> None:
        for number in range(20_000):
            tally.advance("abcd"[number % 4], 1)

    threads = [threading.Thread(target=count) for _ in range(16)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        tally.snapshot()
    assert tally.snapshot().bytes_done == 16 * 20_000


def test_a_log_gets_a_line_every_few_seconds_not_one_a_chunk(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines(clock)
    for step in range(100):
        lines.show([], snapshot(10 * GIB, step * MIB, MIB))
        clock.now += 0.2
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 3
    assert shown[0].startswith("so far   25.0 MiB, 0 % of 10.0 GiB, 1.0 MiB/s, about 2 h 50 min left")


def test_a_log_gets_a_line_a_finished_file_and_one_a_large_one_that_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    happenings = [
        Happening("start", dest="small", size=MIB),
        Happening("start", dest="large", size=GIB, arrived=512 * MIB),
        Happening("finish", dest="small", size=MIB, seconds=0.5),
        Happening("note", text="something odd"),
    ]
    Lines(Clock()).show(happenings, snapshot(2 * GIB, GIB))
    assert capsys.readouterr().err.splitlines() == [
        "fetching large (1.0 GiB, 512.0 MiB of it here from an earlier run)",
        "proven   small (1.0 MiB in 0.5 s; 1.0 GiB of 2.0 GiB)",
        "something odd",
    ]


def test_events_have_the_fields_of_their_kind() -> None:
    assert fields_of(Happening("note", text="odd")) == {"event": "note", "text": "odd"}
    started = {"event": "start", "file": "a", "bytes_total": 9, "bytes_done": 4}
    assert fields_of(Happening("start", dest="a", size=9, arrived=4)) == started
    finished = {"event": "finish", "file": "a", "bytes_total": 9, "seconds": 0.5}
    assert fields_of(Happening("finish", dest="a", size=9, seconds=0.5)) == finished


def test_how_a_command_ends_comes_from_its_error() -> None:
    assert outcome_of(DiskFull("full")) == Outcome(4, "full")
    assert outcome_of(KeyboardInterrupt()) == Outcome(130, "interrupted")
    assert outcome_of(ValueError("odd")) == Outcome(1, "ValueError: odd")


def test_a_place_where_nobody_looks_any_more_is_left_and_the_others_are_not() -> None:
    class Gone(Sink):
        calls = 0

        def show(self, happenings: object, snapshot: Snapshot) -> None:
            self.calls += 1
            raise BrokenPipeError

    class Heard(Sink):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def show(self, happenings: object, snapshot: Snapshot) -> None:
            assert isinstance(happenings, list)
            self.notes += [happening.text for happening in happenings]

    gone, heard = Gone(), Heard()
    with Reporter().add(gone).add(heard) as reporter:
        reporter.note("first")
    reporter.note("after the end")
    assert (gone.calls, heard.notes) == (1, ["first", "after the end"])


def test_a_file_of_a_run_that_never_began_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    path.write_text("of the run that holds the lock")
    told = ProgressFile(path, print)
    told.show([], snapshot(10, 5))
    told.end(Outcome(6, "busy"), snapshot(10, 5))
    assert path.read_text() == "of the run that holds the lock"


def test_a_failure_is_in_the_file_with_its_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    told = ProgressFile(path, print)
    told.begin(snapshot(None, 0))
    assert json.loads(path.read_text())["state"] == "running"
    told.end(Outcome(4, "full"), snapshot(10, 5))
    found = json.loads(path.read_text())
    assert (found["state"], found["exit_code"], found["error"]) == ("failed", 4, "full")
    assert found["files"] == [{"file": "loras/a", "bytes_total": 10, "bytes_done": 5, "percent": 50}]
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


def test_who_reads_the_file_while_it_is_replaced_reads_the_old_one_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    told = ProgressFile(path, print)
    told.begin(snapshot(10, 5))
    with path.open("rb", buffering=0) as stream:
        half = stream.read(9)
        told.end(Outcome(), snapshot(10, 10))
        assert json.loads(half + stream.read())["state"] == "running"
    assert json.loads(path.read_text())["state"] == "done"


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("mine")
    (tmp_path / ".progress.json.part").symlink_to(kept)
    notes: list[str] = []
    told = ProgressFile(tmp_path / "progress.json", notes.append)
    told.begin(snapshot(10, 5))
    told.end(Outcome(), snapshot(10, 10))
    assert kept.read_text() == "mine"
    assert len(notes) == 1 and "the sync goes on without" in notes[0]


def test_a_process_is_known_by_its_number_and_its_start() -> None:
    mine = start_ticks(os.getpid())
    parent = start_ticks(os.getppid())
    assert mine is not None and parent is not None and mine >= parent
    assert start_ticks(2**22 + 1) is None
