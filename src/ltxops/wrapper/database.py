"""The jobs of the wrapper in SQLite: a job that was accepted is still known after the process dies.

One process writes (it holds a lock beside the file), from one thread at a time. Methods block for as long as
a commit takes; callers keep them off the event loop.
"""

import fcntl
import json
import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ltxops.errors import BadInput, Busy, CheckFailed

#: A finished job is answered for this long; then its id is free again.
KEEP_SECONDS = 7 * 24 * 3600.0

_SCHEMA_VERSION = 1
_SCHEMA = """
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
"""


@dataclass(frozen=True)
class StoredJob:
    """A job as recorded. `http_status` and `envelope` are None while it is not finished."""

    id: str
    fingerprint: str
    http_status: int | None
    envelope: dict[str, Any] | None


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
            # Calls come from a pool of threads, one at a time.
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._prepare(path)
        except sqlite3.Error as error:
            os.close(self._lock)
            raise CheckFailed(
                f"the job database {path} cannot be used ({error}); move it away to start with an empty one"
            ) from error

    def _prepare(self, path: Path) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL")
        # Accepted means kept, through a power cut too: FULL syncs the log at every commit.
        self._connection.execute("PRAGMA synchronous = FULL")
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
            )
        elif version != _SCHEMA_VERSION:
            raise sqlite3.DatabaseError(
                f"version {version} of its tables, this program knows {_SCHEMA_VERSION}"
            )
        path.chmod(0o600)

    def __enter__(self) -> "JobDatabase":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        os.close(self._lock)

    def find(self, job_id: str) -> StoredJob | None:
        """Return the job of this id, or None."""
        row = self._connection.execute(
            "SELECT id, fingerprint, http_status, envelope FROM jobs WHERE id = ?", (job_id,)
        ).fetchone()
        return (
            None if row is None else StoredJob(row[0], row[1], row[2], json.loads(row[3]) if row[3] else None)
        )

    def accept(self, job_id: str, fingerprint: str, backend: str) -> None:
        """Record a new job before anything is done for it."""
        self._connection.execute(
            "INSERT INTO jobs (id, fingerprint, backend, accepted_at) VALUES (?, ?, ?, ?)",
            (job_id, fingerprint, backend, time.time()),
        )

    def submitted(self, job_id: str, prompt_id: str) -> None:
        """Record under which prompt id ComfyUI took the job."""
        self._connection.execute("UPDATE jobs SET prompt_id = ? WHERE id = ?", (prompt_id, job_id))

    def forget(self, job_id: str) -> None:
        """Remove a job that ComfyUI did not take: nothing was done, and its id is free again."""
        self._connection.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    def finish(self, job_id: str, http_status: int, envelope: dict[str, Any]) -> None:
        """Record a job's answer, and drop answers nobody asked for in a week."""
        now = time.time()
        self._connection.execute(
            "UPDATE jobs SET http_status = ?, envelope = ?, finished_at = ? WHERE id = ?",
            (http_status, json.dumps(envelope), now, job_id),
        )
        self._connection.execute("DELETE FROM jobs WHERE finished_at < ?", (now - KEEP_SECONDS,))

    def unfinished(self) -> list[tuple[str, str | None]]:
        """Return id and prompt id of the jobs a dead process left behind, oldest first."""
        return self._connection.execute(
            "SELECT id, prompt_id FROM jobs WHERE envelope IS NULL ORDER BY accepted_at"
        ).fetchall()
