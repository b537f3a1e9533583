"""How fast weights come to a host: remembered from its last sync, for an estimate before the next."""

import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from ltxops.errors import BadInput
from ltxops.models.durable import write_text
from ltxops.units import BYTES

#: 1 Gbit/s, what is assumed of a host that was never measured.
ASSUMED_BYTES_PER_SECOND = 125_000_000
#: A smaller sync measures how long a connection takes, not how fast it is.
SMALLEST_MEASURE_BYTES = 16 * 1024 * 1024

_LINE_BITS = {"Mbit/s": 10**6, "Gbit/s": 10**9}


@dataclass(frozen=True)
class Rate:
    """Bytes per second, and where the number is from: `option`, `last sync` or `assumed`."""

    bytes_per_second: float
    source: str

    def seconds(self, count: int) -> float:
        """Return how long `count` bytes take."""
        return count / self.bytes_per_second

    def estimate(self, count: int) -> str:
        """Return how long `count` bytes take, in words that say where the rate is from."""
        speed = f"{self.bytes_per_second / 1e6:.0f} MB/s"
        how = {
            "option": f"at the {speed} given",
            "last sync": f"at {speed}, the rate of the last sync here",
            "assumed": "at 1 Gbit/s (this host was never measured; --rate tells better)",
        }
        return f"about {in_words(self.seconds(count))} {how[self.source]}"


def record(state: Path, count: int, seconds: float) -> None:
    """Remember in the folder `state` that `count` bytes came in `seconds`; a small count says nothing.

    Where that cannot be written, nothing is remembered.
    """
    if count >= SMALLEST_MEASURE_BYTES and seconds > 0:
        with contextlib.suppress(OSError):
            write_text(state / "rate.json", json.dumps({"bytes_per_second": round(count / seconds)}) + "\n")


def known(state: Path) -> Rate:
    """Return the rate of the last sync that measured one, else the assumed one."""
    try:
        value = json.loads((state / "rate.json").read_text(encoding="utf-8"))["bytes_per_second"]
    except (OSError, ValueError, TypeError, KeyError):
        value = None
    if isinstance(value, int) and value > 0:
        return Rate(value, "last sync")
    return Rate(ASSUMED_BYTES_PER_SECOND, "assumed")


def parse(text: str) -> Rate:
    """Return the rate for `100MB/s`, `80MiB/s` or `1Gbit/s`. Raises BadInput."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([A-Za-z]+)/s", text)
    unit = match[2] if match else ""
    per_unit = BYTES.get(unit) or _LINE_BITS.get(f"{unit}/s", 0) / 8
    if match is None or not per_unit or float(match[1]) == 0:
        raise BadInput(f"--rate is {text!r}: write it like 100MB/s, 80MiB/s or 1Gbit/s")
    return Rate(float(match[1]) * per_unit, "option")


def in_words(seconds: float) -> str:
    """Return a duration as a person says it: `40 s`, `12 min`, `1 h 20 min`."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
