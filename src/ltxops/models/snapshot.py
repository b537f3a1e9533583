"""How far a sync is: the arithmetic of rate and time left, and the sentence that tells it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ltxops.units import format_bytes

#: A sample of the bytes that have arrived in all: (seconds on a monotonic clock, bytes).
Sample = tuple[float, int]


@dataclass(frozen=True)
class FileProgress:
    """A file that is under way: its size, and how much of it is here, in bytes."""

    dest: str
    size: int
    arrived: int

    @property
    def percent(self) -> int:
        """Whole percent, rounded down."""
        return percent(self.arrived, self.size)


@dataclass(frozen=True)
class Snapshot:
    """How far a sync is at one moment. What is None is not known (yet); `note` is the last one, or empty."""

    bytes_total: int | None
    bytes_done: int
    rate_bytes_per_second: float
    files_total: int | None
    files_done: int
    under_way: tuple[FileProgress, ...]
    note: str

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until the last byte is here, None when nobody can tell."""
        if self.bytes_total is None:
            return None
        return seconds_left(self.bytes_total - self.bytes_done, self.rate_bytes_per_second)

    def fields(self) -> dict[str, Any]:
        """Return what is shown to programs, under the names that docs/models.md explains."""
        eta = self.eta_seconds
        return {
            "bytes_total": self.bytes_total,
            "bytes_done": self.bytes_done,
            "rate_bytes_per_second": round(self.rate_bytes_per_second),
            "eta_seconds": None if eta is None else round(eta, 1),
            "files_total": self.files_total,
            "files_done": self.files_done,
        }

    def summary(self) -> str:
        """Return one line for a person: `43 % of 97.4 GiB, 412.0 MiB/s, about 2 min left, 5 of 9 files`."""
        if self.bytes_total is None:
            return self.note
        parts = [
            f"{percent(self.bytes_done, self.bytes_total)} % of {format_bytes(self.bytes_total)}",
            f"{format_bytes(int(self.rate_bytes_per_second))}/s",
        ]
        if self.eta_seconds:
            parts.append(f"about {time_left(self.eta_seconds)} left")
        of_all = f" of {self.files_total}" if self.files_total is not None else ""
        return ", ".join([*parts, f"{self.files_done}{of_all} files"])


def percent(done: int, total: int) -> int:
    """Return whole percent, rounded down, so that 100 means all of it."""
    return done * 100 // total if total else 100


def window_of(samples: Sequence[Sample], now: float, seconds: float) -> list[Sample]:
    """Return the samples that the last `seconds` need: those in it and the newest one before it."""
    before = [sample for sample in samples if sample[0] <= now - seconds]
    return [*before[-1:], *samples[len(before) :]]


def rate_of(samples: Sequence[Sample]) -> float:
    """Return bytes per second from the first sample to the last; 0 when bytes had to come again."""
    if len(samples) < 2 or samples[-1][0] <= samples[0][0]:
        return 0.0
    return max(0.0, (samples[-1][1] - samples[0][1]) / (samples[-1][0] - samples[0][0]))


def seconds_left(missing: int, rate: float) -> float | None:
    """Return how long `missing` bytes take at `rate` bytes per second; None when nothing arrives."""
    if missing <= 0:
        return 0.0
    return missing / rate if rate > 0 else None


def time_left(seconds: float) -> str:
    """Return a duration as roughly as an estimate deserves: `40 s`, `2 min`, `3 h 20 min`."""
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
