"""Durations and sizes as operators write them (`10m`, `512MiB`), read strictly, and printed back."""

import re

from ltxops.errors import BadInput

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
BYTES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
# Twelve digits keep any product far below what a 64-bit nanosecond clock can hold.
_VALUE = re.compile(r"([0-9]{1,12})([A-Za-z]+)")
_LONGEST_SECONDS = 100 * 365 * 86400


def parse_duration(text: str, what: str) -> int:
    """Return seconds for `30s`, `10m`, `24h` or `7d`; `what` names the option in the error.

    Raises BadInput for anything else, for zero, and for more than a century.
    """
    number, unit = _split(text)
    if number is None or unit not in SECONDS:
        raise BadInput(f"{what} is {text!r}: give a whole number with s, m, h or d, such as 10m")
    seconds = number * SECONDS[unit]
    if not 1 <= seconds <= _LONGEST_SECONDS:
        raise BadInput(f"{what} is {text!r}: give at least 1s and at most 100 years (36500d)")
    return seconds


def parse_size(text: str, what: str, *, zero: bool = False) -> int:
    """Return bytes for `512MiB`, `1GiB` or `512MB` (powers of ten without the i).

    Raises BadInput for anything else, and for zero unless it is allowed.
    """
    if zero and text == "0":
        return 0
    number, unit = _split(text)
    if number is None or unit not in BYTES:
        raise BadInput(f"{what} is {text!r}: give a whole number with a unit, such as 512MiB, 1GiB or 512MB")
    if number == 0 and not zero:
        raise BadInput(f"{what} is {text!r}: give a size above zero")
    return number * BYTES[unit]


def _split(text: str) -> tuple[int | None, str]:
    match = _VALUE.fullmatch(text)
    return (int(match[1]), match[2]) if match else (None, "")


def format_bytes(count: int) -> str:
    """Return `count` bytes for a person, such as `1.5 GiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def format_duration(seconds: int) -> str:
    """Return whole seconds in the largest unit that divides them, as `parse_duration` reads it."""
    for unit in ("d", "h", "m"):
        if seconds % SECONDS[unit] == 0:
            return f"{seconds // SECONDS[unit]}{unit}"
    return f"{seconds}s"
