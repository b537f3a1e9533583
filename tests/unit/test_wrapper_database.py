"""Jobs outlive the process that took them."""

import sqlite3
import time
from pathlib import Path

import pytest

from ltxops.errors import BadInput, Busy, CheckFailed
from ltxops.wrapper.database import KEEP_SECONDS, JobDatabase


def test_a_job_is_known_from_its_acceptance_on_and_in_the_next_process(tmp_path: Path) -> None:  # R58
    with JobDatabase(tmp_path / "state") as database:
        database.accept("a", "f1", "http://127.0.0.1:1")
        database.accept("b", "f2", "http://127.0.0.1:1")
        database.submitted("b", "prompt-b")
        database.accept("c", "f3", "http://127.0.0.1:1")
        database.finish("c", 200, {"status": "completed"})
        database.accept("d", "f4", "http://127.0.0.1:1")
        database.forget("d")
    with JobDatabase(tmp_path / "state") as database:
        assert database.unfinished() == [("a", None), ("b", "prompt-b")]
        done = database.find("c")
        assert done is not None and (done.http_status, done.envelope) == (200, {"status": "completed"})
        assert database.find("d") is None
        with pytest.raises(sqlite3.IntegrityError):
            database.accept("a", "f1", "http://127.0.0.1:1")


def test_old_answers_go_and_new_ones_and_unfinished_jobs_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with JobDatabase(tmp_path) as database:
        clock = 1_000_000.0
        monkeypatch.setattr(time, "time", lambda: clock)
        for job_id in ("old", "unfinished"):
            database.accept(job_id, "f", "b")
        database.finish("old", 200, {"status": "completed"})
        clock += KEEP_SECONDS + 1
        database.accept("new", "f", "b")
        database.finish("new", 200, {"status": "completed"})
        assert database.find("old") is None
        assert database.find("new") is not None and database.find("unfinished") is not None


def test_a_second_wrapper_on_the_same_state_is_told_so(tmp_path: Path) -> None:
    with JobDatabase(tmp_path), pytest.raises(Busy, match=str(tmp_path)):
        JobDatabase(tmp_path)
    with JobDatabase(tmp_path):
        pass


def test_a_state_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="state folder"):
        JobDatabase(tmp_path / "file" / "state")
    (tmp_path / "jobs.sqlite3").write_bytes(b"this is no database" * 100)
    with pytest.raises(CheckFailed, match=r"jobs\.sqlite3"):
        JobDatabase(tmp_path)


def test_tables_of_a_later_version_are_not_touched(tmp_path: Path) -> None:
    with JobDatabase(tmp_path):
        pass
    connection = sqlite3.connect(tmp_path / "jobs.sqlite3")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(CheckFailed, match="99"):
        JobDatabase(tmp_path)


def test_only_its_user_can_read_what_was_asked_for(tmp_path: Path) -> None:
    with JobDatabase(tmp_path / "state"):
        assert (tmp_path / "state").stat().st_mode & 0o077 == 0
        assert (tmp_path / "state" / "jobs.sqlite3").stat().st_mode & 0o077 == 0
