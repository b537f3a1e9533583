"""Which bytes of a file are there, and how many to ask for next. Pure: no thread, no file."""

from bisect import bisect_left
from collections.abc import Iterator

MIB = 1024 * 1024
_SMALLEST_BYTES = 8 * MIB
_LARGEST_BYTES = 128 * MIB


class Spans:
    """A set of bytes as sorted spans (start, end), end exclusive, that neither touch nor overlap."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int]] = []
        #: How many bytes are in the set.
        self.total = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._spans)

    def add(self, start: int, end: int) -> int:
        """Add the bytes from `start` to `end`; return how many of them were new."""
        if start >= end:
            return 0
        first = bisect_left(self._spans, (start, start))
        if first and self._spans[first - 1][1] >= start:
            first -= 1
        last = first
        covered = 0
        low, high = start, end
        while last < len(self._spans) and self._spans[last][0] <= end:
            low, high = min(low, self._spans[last][0]), max(high, self._spans[last][1])
            covered += self._spans[last][1] - self._spans[last][0]
            last += 1
        self._spans[first:last] = [(low, high)]
        new = high - low - covered
        self.total += new
        return new

    def prefix(self) -> int:
        """Return how many bytes are there without a gap from the first one on."""
        return self._spans[0][1] if self._spans and self._spans[0][0] == 0 else 0

    def missing(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the spans between `start` and `end` that are not there."""
        for low, high in self._spans:
            if low >= end:
                break
            if high <= start:
                continue
            if low > start:
                yield start, low
            start = high
        if start < end:
            yield start, end

    def first_gap(self, size: int) -> tuple[int, int] | None:
        """Return the first span of the bytes before `size` that is not there; None when all are."""
        start = self.prefix()
        if start >= size:
            return None
        return start, min(size, next((span[0] for span in self._spans if span[0] > start), size))


def range_bytes(left: int, connections: int) -> int:
    """Return how many bytes to ask for next, of `left`, when there are `connections` at most.

    A quarter of its fair share, so that ranges shrink towards the end, all connections finish together, and
    the hash, which needs the bytes without a gap, is not far behind then. Never so little that the latency of
    answers would show, never so much that one slow connection holds a file up.
    """
    share = left // (4 * max(connections, 1))
    return max(_SMALLEST_BYTES, min(_LARGEST_BYTES, share // MIB * MIB))
