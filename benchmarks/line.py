"""A line of fixed speed that many connections share, as a host's own line to the internet is."""

import threading
import time

#: What one turn sends: little enough that connections share the line evenly.
TURN_BYTES = 64 * 1024


class Line:
    """Says when the next bytes may be sent. `bytes_per_second` 0 is no limit."""

    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self._guard = threading.Lock()
        self._free_at = 0.0

    def turn(self, wanted: int) -> int:
        """Wait for this connection's turn; return how many of `wanted` bytes it may send in it."""
        if not self._rate:
            return wanted
        count = min(wanted, TURN_BYTES)
        with self._guard:
            begin = max(time.monotonic(), self._free_at)
            self._free_at = begin + count / self._rate
        time.sleep(max(0.0, begin - time.monotonic()))
        return count
