"""The one question that cleaners ask the wrapper: which files does somebody still need?"""

import json
import sqlite3
import time
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from ltxops.errors import CheckFailed

#: Of a job that is unfinished, or whose webhook or upload is not settled, or whose answer nobody has asked
#: for since it ended.
_QUERY = """
SELECT DISTINCT files.path FROM files JOIN jobs ON jobs.id = files.job
WHERE jobs.finished_at IS NULL
   OR NOT jobs.announced
   OR (jobs.fetched_at IS NULL AND jobs.finished_at > :since)
   OR jobs.id IN (SELECT value FROM json_each(:pending))
"""


def needed_paths(
    database_path: Path, *, grace_seconds: float, pending_jobs: Collection[str] = (), now: float | None = None
) -> set[Path]:
    """Return every name of the files that must not be deleted yet. Reads only.

    `pending_jobs` are jobs with a delivery under way. An answer that nobody has fetched protects its files
    for `grace_seconds` after the job's end; `now` is in seconds since the epoch. Without a database nothing
    is needed; raises CheckFailed when there is one and it cannot be read: then nobody knows.
    """
    if not database_path.exists():
        return set()
    since = (time.time() if now is None else now) - grace_seconds
    uri = f"file:{quote(str(database_path.absolute()))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
            (tables,) = connection.execute(
                "SELECT count(*) FROM sqlite_master WHERE name IN ('jobs', 'files')"
            ).fetchone()
            if tables < 2:
                return set()
            rows = connection.execute(_QUERY, {"since": since, "pending": json.dumps(sorted(pending_jobs))})
            return {Path(path) for (path,) in rows}
    except sqlite3.Error as error:
        raise CheckFailed(
            f"the job database {database_path} cannot be read ({error}), so nobody knows which files are "
            "still needed; run this as the wrapper's user"
        ) from error
