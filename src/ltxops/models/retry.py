"""When to ask again: what a server wishes in Retry-After, else waits that double, with jitter."""

import random
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

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
