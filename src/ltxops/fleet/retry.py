"""When to try a lost connection again, and when to give up."""

import random
import time
from collections.abc import Callable

_FIRST_SECONDS, _LONGEST_SECONDS = 1.0, 15.0
#: A connection that held for less is no success: its loss counts on.
_HELD_SECONDS = 10.0


class Retry:
    """Waits that double up to 15 s, with jitter, until `patience_seconds` after the first loss."""

    def __init__(self, patience_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience_seconds
        self._now = now
        self._wait = _FIRST_SECONDS
        self._lost_at: float | None = None
        self._connected_at: float | None = None

    def connected(self) -> None:
        """Take note that the connection stands."""
        if self._connected_at is None:
            self._connected_at = self._now()

    def lost(self) -> float | None:
        """Take note that it was lost or could not be made; return the seconds to wait, or None to give up."""
        now = self._now()
        held = self._connected_at is not None and now - self._connected_at >= _HELD_SECONDS
        self._connected_at = None
        if self._lost_at is None or held:
            self._lost_at, self._wait = now, _FIRST_SECONDS
        left = self._lost_at + self._patience - now
        if left <= 0:
            return None
        wait = min(self._wait * random.uniform(0.8, 1.2), left)
        self._wait = min(self._wait * 2, _LONGEST_SECONDS)
        return wait
