"""How many connections to use: as many as measurably help. A decision only; no socket, no clock.

With a limit on each connection, every new one adds its share, and the number doubles until it no longer pays.
Where a few connections fill the line or the processors, more would only cost, and the number stays low.
"""

from dataclasses import dataclass

_FIRST = 4
#: A step is kept when it brings this part of what it would bring if every new connection were a full gain.
_WORTHWHILE = 0.25
_DECISIONS_UNTIL_NEXT_TRY = 24


@dataclass
class Pace:
    """The search for the best number. `most` is its upper bound; `connections` is what to use now."""

    most: int
    connections: int = 0
    _before: int = 0
    _rate_before: float = 0.0
    _held: int = 0
    _judged: bool = False

    def __post_init__(self) -> None:
        self.connections = self.connections or min(_FIRST, self.most)

    @property
    def expected(self) -> int:
        """How many there may soon be: `most` while the search goes on."""
        return self.most if self._before or not self._judged else self.connections

    def decide(self, rate: float, *, busy: bool) -> int:
        """Take the bytes a second that `connections` brought since the last call; return how many to use.

        While the processors are `busy` with what arrives no step up is tried. One that did not pay is taken
        back. After a while of no step one is tried again, because neighbours on the line come and go.
        """
        self._judged = True
        if self._before:
            if not _paid(self._rate_before, rate, self._before, self.connections):
                self.connections, self._before, self._held = self._before, 0, 0
                return self.connections
            self._before = 0
        elif self._rate_before and self._held < _DECISIONS_UNTIL_NEXT_TRY:
            self._held += 1
            return self.connections
        if self.connections < self.most and not busy:
            self._before, self._rate_before, self._held = self.connections, rate, 0
            self.connections = min(self.most, self.connections * 2)
        return self.connections

    def refused(self, served: int) -> None:
        """A server refused a connection while `served` others brought bytes: do not ask for more now."""
        self._judged = True
        self.connections = max(1, min(self.connections, served))
        self._before, self._held, self._rate_before = 0, 0, max(self._rate_before, 1.0)


def _paid(rate_before: float, rate: float, before: int, now: int) -> bool:
    return rate >= rate_before * (1 + _WORTHWHILE * (now / before - 1))
