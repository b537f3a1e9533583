"""How the wrapper opens its files of SQLite: private, and durable at every commit."""

import os
import sqlite3
from pathlib import Path


def open_durable(path: Path) -> sqlite3.Connection:
    """Open the database at `path`, made where there is none. Raises OSError and sqlite3.Error."""
    # Made before SQLite opens it, so that its files are never readable by others.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)
    # Calls come from a pool of threads, one at a time.
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    # What was accepted is kept, through a power cut too: FULL syncs the log at every commit.
    connection.execute("PRAGMA synchronous = FULL")
    # What is removed is overwritten: a request may hold keys, and an event parameters of users.
    connection.execute("PRAGMA secure_delete = ON")
    return connection
