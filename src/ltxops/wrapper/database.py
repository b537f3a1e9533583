"""The jobs of the wrapper in SQLite: a job that was accepted is still known after the process dies.

One process writes (it holds a lock beside the file), from one thread at a time. Methods block for as long as
a commit takes; callers keep them off the event loop. A request, which may hold somebody's keys, is kept as
long as its job is unfinished and is overwritten then.
"""

import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ltxops.errors import BadInput, Busy, CheckFailed
from ltxops.wrapper.sqlite import open_durable

#: A finished job is answered for this long; then its id is free again.
KEEP_SECONDS = 7 * 24 * 3600.0

#: What brings the tables from each version to the next. `backend` and `prompt_id` say where the job was last
#: handed to, `submitted` that ComfyUI has confirmed it. Times are seconds since the epoch.
_MIGRATIONS = (
    """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    backend TEXT NOT NULL,
    prompt_id TEXT,
    accepted_at REAL NOT NULL,
    finished_at REAL,
    http_status INTEGER,
    envelope TEXT
) WITHOUT ROWID;
CREATE INDEX jobs_by_end ON jobs (finished_at);
""",
    """
ALTER TABLE jobs ADD COLUMN submitted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN retried INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN request TEXT;
ALTER TABLE jobs ADD COLUMN webhook TEXT;
ALTER TABLE jobs ADD COLUMN announced INTEGER NOT NULL DEFAULT 1;
ALTER TABLE jobs ADD COLUMN fetched_at REAL;
CREATE TABLE files (
    job TEXT NOT NULL,
    path TEXT NOT NULL,
    PRIMARY KEY (job, path)
) WITHOUT ROWID;
""",
)


@dataclass(frozen=True)
class StoredJob:
    """A job as recorded. `http_status` and `envelope` are None while it is not finished."""

    id: str
    fingerprint: str
    http_status: int | None
    envelope: dict[str, Any] | None


@dataclass(frozen=True)
class LeftOver:
    """A job that a dead process left unfinished, and where it was last handed to."""

    id: str
    fingerprint: str
    accepted_at: float
    backend: str
    prompt_id: str | None
    submitted: bool
    retried: bool


@dataclass(frozen=True)
class Unannounced:
    """A job that ended, and whose webhook has not heard of it."""

    id: str
    envelope: dict[str, Any]
    webhook: dict[str, Any] | None


class JobDatabase:
    """`<state>/jobs.sqlite3`, opened for one process.

    Raises BadInput when the folder cannot be used, Busy when another wrapper has it, CheckFailed when the
    file is no database of this version.
    """

    def __init__(self, state: Path) -> None:
        try:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(state / "wrapper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BadInput(
                f"the state folder {state} cannot be used ({error.strerror}); give --state a folder "
                "this user may write"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise Busy(
                f"another wrapper uses the state folder {state}; stop it or give --state another folder"
            ) from error
        path = state / "jobs.sqlite3"
        try:
            self._connection = open_durable(path)
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            os.close(self._lock)
            raise CheckFailed(
                f"the job database {path} cannot be used ({error}); move it away to start with an empty one"
            ) from error

    def _prepare(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > len(_MIGRATIONS):
            raise sqlite3.DatabaseError(
                f"version {version} of its tables, this program knows {len(_MIGRATIONS)}"
            )
        for number, statements in enumerate(_MIGRATIONS[version:], version + 1):
            self._connection.executescript(f"BEGIN; {statements} PRAGMA user_version = {number}; COMMIT;")

    def __enter__(self) -> "JobDatabase":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        os.close(self._lock)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def find(self, job_id: str) -> StoredJob | None:
        """Return the job of this id, or None."""
        row = self._connection.execute(
            "SELECT id, fingerprint, http_status, envelope FROM jobs WHERE id = ?", (job_id,)
        ).fetchone()
        return (
            None if row is None else StoredJob(row[0], row[1], row[2], json.loads(row[3]) if row[3] else None)
        )

    def accept(self, job_id: str, fingerprint: str, request: dict[str, Any]) -> None:
        """Record a new job before anything is done for it."""
        self._connection.execute(
            "INSERT INTO jobs (id, fingerprint, backend, accepted_at, request, announced)"
            " VALUES (?, ?, '', ?, ?, 0)",
            (job_id, fingerprint, time.time(), json.dumps(request)),
        )

    def request(self, job_id: str) -> dict[str, Any] | None:
        """Return what an unfinished job was asked for, or None for one of an earlier version."""
        (text,) = self._connection.execute("SELECT request FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return json.loads(text) if text else None

    def change_request(self, job_id: str, request: dict[str, Any]) -> None:
        """Replace what a job runs: its inputs have been fetched."""
        self._connection.execute("UPDATE jobs SET request = ? WHERE id = ?", (json.dumps(request), job_id))

    def assign(self, job_id: str, backend: str, prompt_id: str | None, *, retried: bool = False) -> None:
        """Record where a job is about to be submitted, before it is; no `prompt_id`: nowhere any more."""
        self._connection.execute(
            "UPDATE jobs SET backend = ?, prompt_id = ?, submitted = 0, retried = retried OR ? WHERE id = ?",
            (backend, prompt_id, retried, job_id),
        )

    def submitted(self, job_id: str, prompt_id: str) -> None:
        """Record that ComfyUI has the job under this prompt id."""
        self._connection.execute(
            "UPDATE jobs SET prompt_id = ?, submitted = 1 WHERE id = ?", (prompt_id, job_id)
        )

    def forget(self, job_id: str) -> None:
        """Remove a job that ComfyUI did not take: nothing was done, and its id is free again."""
        with self._transaction():
            self._connection.execute("DELETE FROM files WHERE job = ?", (job_id,))
            self._connection.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    def hold(self, job_id: str, paths: Iterable[str]) -> None:
        """Record that the job still needs these files."""
        with self._transaction():
            self._connection.executemany(
                "INSERT OR IGNORE INTO files (job, path) VALUES (?, ?)", ((job_id, path) for path in paths)
            )

    def finish(
        self, job_id: str, http_status: int, envelope: dict[str, Any], webhook: dict[str, Any] | None = None
    ) -> None:
        """Record a job's answer, remove its request, and drop answers that are older than a week.

        `webhook` is kept until `announced`.
        """
        now = time.time()
        with self._transaction():
            self._connection.execute(
                "UPDATE jobs SET http_status = ?, envelope = ?, finished_at = ?, request = NULL, webhook = ?"
                " WHERE id = ?",
                (http_status, json.dumps(envelope), now, json.dumps(webhook) if webhook else None, job_id),
            )
            old = "SELECT id FROM jobs WHERE finished_at < ? AND announced"
            self._connection.execute(f"DELETE FROM files WHERE job IN ({old})", (now - KEEP_SECONDS,))
            self._connection.execute(
                "DELETE FROM jobs WHERE finished_at < ? AND announced", (now - KEEP_SECONDS,)
            )

    def announced(self, job_id: str) -> None:
        """Record that the webhook's event is in other hands."""
        self._connection.execute("UPDATE jobs SET announced = 1, webhook = NULL WHERE id = ?", (job_id,))

    def fetched(self, job_id: str) -> None:
        """Record that somebody has the job's answer."""
        self._connection.execute(
            "UPDATE jobs SET fetched_at = ? WHERE id = ? AND finished_at IS NOT NULL AND fetched_at IS NULL",
            (time.time(), job_id),
        )

    def scrub(self) -> None:
        """Take what was removed out of the write-ahead log, too."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def unfinished(self) -> list[LeftOver]:
        """Return the jobs a dead process left behind, oldest first."""
        rows = self._connection.execute(
            "SELECT id, fingerprint, accepted_at, backend, prompt_id, submitted, retried FROM jobs"
            " WHERE envelope IS NULL ORDER BY accepted_at"
        )
        return [
            LeftOver(job, fingerprint, accepted_at, backend, prompt_id, bool(submitted), bool(retried))
            for job, fingerprint, accepted_at, backend, prompt_id, submitted, retried in rows
        ]

    def unannounced(self) -> list[Unannounced]:
        """Return the finished jobs whose webhook has not been handed over."""
        rows = self._connection.execute(
            "SELECT id, envelope, webhook FROM jobs WHERE envelope IS NOT NULL AND NOT announced"
            " ORDER BY finished_at"
        )
        return [
            Unannounced(row[0], json.loads(row[1]), json.loads(row[2]) if row[2] else None) for row in rows
        ]
