"""What is still to be delivered, in a SQLite file of its own: `<state>/outbox.sqlite3`.

An event that was put here is known after the process dies. Delivered and given-up ones are removed: they
hold parameters of users. One process writes, from one thread at a time; methods block for as long as a commit
takes.
"""

import sqlite3
import time
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ltxops.errors import CheckFailed
from ltxops.wrapper.sqlite import open_durable

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE events (
    id TEXT PRIMARY KEY,
    job_id TEXT NOT NULL,
    url TEXT NOT NULL,
    origin TEXT NOT NULL,
    of_host INTEGER NOT NULL,
    body BLOB NOT NULL,
    created_at REAL NOT NULL,
    due_at REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX events_by_due ON events (due_at);
CREATE TABLE uploads (job_id TEXT PRIMARY KEY, started_at REAL NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Event:
    """One webhook to be called. `attempts` have failed so far; `of_host`: the URL is the operator's."""

    id: str
    job_id: str
    url: str
    origin: str
    of_host: bool
    body: bytes
    attempts: int = 0


class Outbox:
    """The file, opened for one process. Raises CheckFailed when it is no outbox of this version."""

    def __init__(self, path: Path) -> None:
        try:
            self._connection = open_durable(path)
            self._prepare()
        except (sqlite3.Error, OSError) as error:
            raise CheckFailed(
                f"the outbox {path} cannot be used ({error}); move it away to start with an empty one"
            ) from error

    def _prepare(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
            )
        elif version != _SCHEMA_VERSION:
            raise sqlite3.DatabaseError(
                f"version {version} of its tables, this program knows {_SCHEMA_VERSION}"
            )
        # Uploads end with the process that makes them.
        self._connection.execute("DELETE FROM uploads")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def put(self, event: Event) -> None:
        """Record an event, due at once. The same event again changes nothing."""
        now = time.time()
        self._connection.execute(
            "INSERT OR IGNORE INTO events (id, job_id, url, origin, of_host, body, created_at, due_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (event.id, event.job_id, event.url, event.origin, event.of_host, event.body, now, now),
        )

    def next_due(self, busy: Collection[str], full: Collection[str]) -> tuple[Event | None, float | None]:
        """Return the event that is due longest, and in how many seconds the next one will be.

        Events whose id is in `busy` and those for an origin in `full` are left out. The seconds are None when
        there is nothing to wait for.
        """
        row = self._connection.execute(
            "SELECT due_at, id, job_id, url, origin, of_host, body, attempts FROM events "
            f"WHERE id NOT IN ({_marks(busy)}) AND origin NOT IN ({_marks(full)}) ORDER BY due_at LIMIT 1",
            (*busy, *full),
        ).fetchone()
        if row is None:
            return None, None
        wait_seconds = row[0] - time.time()
        if wait_seconds > 0:
            return None, wait_seconds
        return Event(row[1], row[2], row[3], row[4], bool(row[5]), row[6], row[7]), 0.0

    def retry(self, event_id: str, wait_seconds: float) -> None:
        """Count a failed attempt; the next one is due in `wait_seconds`."""
        self._connection.execute(
            "UPDATE events SET attempts = attempts + 1, due_at = ? WHERE id = ?",
            (time.time() + wait_seconds, event_id),
        )

    def settle(self, event_id: str) -> None:
        """Remove an event that was delivered or given up."""
        self._connection.execute("DELETE FROM events WHERE id = ?", (event_id,))

    def count(self) -> int:
        """Return how many events are not settled."""
        (found,) = self._connection.execute("SELECT count(*) FROM events").fetchone()
        return int(found)

    def upload_begins(self, job_id: str) -> None:
        """Record that the files of a job are needed for its upload."""
        self._connection.execute("INSERT OR REPLACE INTO uploads VALUES (?, ?)", (job_id, time.time()))

    def upload_ends(self, job_id: str) -> None:
        """Record that they are no longer."""
        self._connection.execute("DELETE FROM uploads WHERE job_id = ?", (job_id,))


def pending(database_path: Path) -> set[str]:
    """Return the ids of the jobs that have an upload or a webhook under way.

    For other processes: it only reads, and a missing file means that there are none. Raises CheckFailed when
    the file cannot be read: then nothing is known.
    """
    if not database_path.exists():
        return set()
    try:
        with closing(sqlite3.connect(f"{database_path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT job_id FROM events UNION SELECT job_id FROM uploads").fetchall()
    except sqlite3.Error as error:
        raise CheckFailed(f"the outbox {database_path} cannot be read ({error})") from error
    return {job_id for (job_id,) in rows}


def _marks(values: Collection[str]) -> str:
    return ", ".join("?" * len(values))
