"""Which files the cleaners must leave alone, as the wrapper's database says."""

import time
from pathlib import Path
from typing import Any

import pytest

from ltxops.errors import CheckFailed
from ltxops.wrapper.database import JobDatabase
from ltxops.wrapper.needed import needed_paths

REQUEST: dict[str, Any] = {"graph": {}, "s3": None, "webhook": None}
ENVELOPE = {"status": "completed"}


def test_files_are_needed_until_nobody_waits_for_them(tmp_path: Path) -> None:  # R42 R43
    path = tmp_path / "jobs.sqlite3"
    with JobDatabase(tmp_path) as database:
        for job_id in ("running", "unannounced", "unfetched", "fetched"):
            database.accept(job_id, "f", REQUEST)
            database.hold(job_id, [f"/output/{job_id}/a.mp4", f"/output/video/{job_id}.mp4"])
        for job_id in ("unannounced", "unfetched", "fetched"):
            database.finish(job_id, 200, ENVELOPE)
        for job_id in ("unfetched", "fetched"):
            database.announced(job_id)
        for job_id in ("running", "unannounced", "fetched"):
            database.fetched(job_id)

        def needed(**options: Any) -> set[str]:
            paths = needed_paths(path, grace_seconds=600, **options)
            assert all(len([p for p in paths if name_of(p) == name]) == 2 for name in map(name_of, paths))
            return {name_of(path) for path in paths}

        later = time.time() + 700
        assert needed() == {"running", "unannounced", "unfetched"}
        assert needed(now=later) == {"running", "unannounced"}, "its grace is over"
        assert needed(now=later, pending_jobs=["fetched"]) == {"running", "unannounced", "fetched"}
    assert needed(now=later) == {"running", "unannounced"}, "also while no wrapper runs"


def name_of(path: Path) -> str:
    """Return which job a path of this test belongs to."""
    return path.stem if path.parent.name == "video" else path.parent.name


def test_without_a_database_nothing_is_needed_and_nothing_is_made(tmp_path: Path) -> None:
    assert needed_paths(tmp_path / "jobs.sqlite3", grace_seconds=600) == set()
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_cannot_be_read_is_no_permission(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite3").write_bytes(b"this is no database" * 100)
    with pytest.raises(CheckFailed, match="nobody knows"):
        needed_paths(tmp_path / "jobs.sqlite3", grace_seconds=600)
