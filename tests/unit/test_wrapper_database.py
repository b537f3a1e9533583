"""Jobs outlive the process that took them."""

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from ltxops.errors import BadInput, Busy, CheckFailed
from ltxops.wrapper.database import _MIGRATIONS, KEEP_SECONDS, JobDatabase

REQUEST: dict[str, Any] = {"graph": {}, "s3": None, "webhook": None}


def test_a_job_is_known_from_its_acceptance_on_and_in_the_next_process(tmp_path: Path) -> None:  # R58
    with JobDatabase(tmp_path / "state") as database:
        for job_id in ("a", "b", "c", "d", "e"):
            database.accept(job_id, f"f-{job_id}", REQUEST)
        database.assign("b", "http://127.0.0.1:1", "prompt-b")
        database.assign("c", "http://127.0.0.1:1", "prompt-c")
        database.submitted("c", "prompt-c")
        database.finish("d", 200, {"status": "completed"})
        database.forget("e")
    with JobDatabase(tmp_path / "state") as database:
        left = {job.id: (job.backend, job.prompt_id, job.submitted) for job in database.unfinished()}
        assert left == {
            "a": ("", None, False),
            "b": ("http://127.0.0.1:1", "prompt-b", False),
            "c": ("http://127.0.0.1:1", "prompt-c", True),
        }
        assert database.request("a") == REQUEST
        done = database.find("d")
        assert done is not None and (done.http_status, done.envelope) == (200, {"status": "completed"})
        assert database.find("e") is None
        with pytest.raises(sqlite3.IntegrityError):
            database.accept("a", "f1", REQUEST)


def test_the_end_of_a_job_is_announced_once_and_survives_the_process(tmp_path: Path) -> None:
    with JobDatabase(tmp_path) as database:
        database.accept("a", "f", REQUEST)
        database.finish("a", 200, {"status": "completed"}, {"url": "https://example.org/done"})
    with JobDatabase(tmp_path) as database:
        (waiting,) = database.unannounced()
        assert (waiting.id, waiting.webhook) == ("a", {"url": "https://example.org/done"})
        database.announced("a")
        assert database.unannounced() == []


def test_keys_of_a_request_leave_no_byte_behind(tmp_path: Path) -> None:
    with JobDatabase(tmp_path) as database:
        keys = {**REQUEST, "s3": {"secret_access_key": "hunter2-hunter2"}, "graph": {"1": "x" * 20_000}}
        database.accept("a", "f", keys)
        assert any(b"hunter2-hunter2" in path.read_bytes() for path in tmp_path.iterdir())
        database.finish("a", 200, {"status": "completed"})
        database.scrub()
        for path in tmp_path.iterdir():
            assert b"hunter2" not in path.read_bytes(), path


def test_old_answers_go_and_new_ones_and_unfinished_jobs_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with JobDatabase(tmp_path) as database:
        clock = 1_000_000.0
        monkeypatch.setattr(time, "time", lambda: clock)
        for job_id in ("old", "unannounced", "unfinished"):
            database.accept(job_id, "f", REQUEST)
        database.finish("old", 200, {"status": "completed"})
        database.announced("old")
        database.finish("unannounced", 200, {"status": "completed"})
        clock += KEEP_SECONDS + 1
        database.accept("new", "f", REQUEST)
        database.finish("new", 200, {"status": "completed"})
        assert database.find("old") is None
        assert all(database.find(job_id) is not None for job_id in ("new", "unannounced", "unfinished"))


def test_tables_of_the_first_version_are_brought_up_to_date(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "jobs.sqlite3") as old:
        old.executescript(f"{_MIGRATIONS[0]} PRAGMA user_version = 1;")
        old.execute(
            "INSERT INTO jobs VALUES ('done', 'f', 'b', 'p', 1, 2e9, 200, '{\"status\": \"completed\"}')"
        )
        old.execute("INSERT INTO jobs VALUES ('left', 'f', 'b', 'p', 1, NULL, NULL, NULL)")
    old.close()
    with JobDatabase(tmp_path) as database:
        done = database.find("done")
        assert done is not None and done.envelope == {"status": "completed"}
        assert [job.id for job in database.unfinished()] == ["left"]
        assert database.request("left") is None and database.unannounced() == []


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
