"""When to ask again: what a server wishes in Retry-After, else waits that double, with jitter."""

import random
import time
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TypeVar

Result = TypeVar("Result")

#: Longer waits are not worth holding a run for, whatever a server asks.
LONGEST_WAIT_SECONDS = 60.0
#: Answers after which the same question may be answered well.
PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


def asked_wait_seconds(retry_after: str | None, now: datetime | None = None) -> float | None:
    """Read a Retry-After header (seconds or an HTTP date, RFC 9110 10.2.3); None when it says nothing."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:6]), LONGEST_WAIT_SECONDS)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    wait = (moment - (now or datetime.now(timezone.utc))).total_seconds()
    return min(max(wait, 0.0), LONGEST_WAIT_SECONDS)


def backoff_seconds(first: float, failures: int) -> float:
    """Return how long to wait after the `failures`-th failure in a row; `first` is the wait after one."""
    # Jitter keeps fifty hosts that were cut off together from returning together.
    return min(first * 2.0 ** (failures - 1), LONGEST_WAIT_SECONDS) * random.uniform(0.75, 1.25)


class Passing(Exception):
    """A failure that may be gone at the next try; `wait_seconds` is what the server asked for."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


def retried(
    call: Callable[[], Result],
    *,
    attempts: int,
    first_wait_seconds: float,
    progress: Callable[[], int] = lambda: 0,
) -> Result:
    """Return what `call` returns; after Passing it is run again, with growing waits.

    `attempts` times at most without `progress` (any number that grows) in between: then the last Passing is
    raised. Whatever else `call` raises is raised at once.
    """
    failures = 0
    while True:
        before = progress()
        try:
            return call()
        except Passing as passing:
            failures = 1 if progress() > before else failures + 1
            if failures >= attempts:
                raise
            asked = passing.wait_seconds
            time.sleep(backoff_seconds(first_wait_seconds, failures) if asked is None else asked)
