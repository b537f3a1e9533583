"""Durations, sizes, and the age of a file."""

import pytest

from ltxops.errors import BadInput
from ltxops.units import format_bytes, format_duration, parse_duration, parse_size
from ltxops.upkeep.names import changed_at, printable


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("10m", 600), ("24h", 86400), ("7d", 604800)])
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text, "--older-than") == seconds
    assert parse_duration(format_duration(seconds), "x") == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "m", "0s", "-5m", "1.5h", "10 m", "10M", "1h30m", "\u0661\u0660m", "999999999999d"]
)
def test_a_bad_duration_is_refused_with_the_value(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_duration(text, "--older-than")
    assert "--older-than" in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MiB", 512 * 2**20),
        ("1GiB", 2**30),
        ("512MB", 512 * 10**6),
        ("3B", 3),
        ("2TiB", 2**41),
        ("4kB", 4000),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "--min-free") == size


@pytest.mark.parametrize("text", ["", "512", "512M", "0MiB", "-1GiB", "1.5GiB", "512 MiB", "512mib", "MiB"])
def test_a_bad_size_is_refused_with_the_value(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_size(text, "--min-free")
    assert "--min-free" in str(caught.value)
    assert repr(text) in str(caught.value)


def test_zero_is_a_size_where_it_makes_sense() -> None:
    assert parse_size("0", "--reserve", zero=True) == parse_size("0GiB", "--reserve", zero=True) == 0
    assert parse_size("5GiB", "--reserve", zero=True) == 5 * 2**30
    with pytest.raises(BadInput, match="--reserve is '512': give a whole number with a unit"):
        parse_size("512", "--reserve", zero=True)


def test_bytes_for_people() -> None:
    assert format_bytes(512) == "512 B"
    assert format_bytes(1536) == "1.5 KiB"
    assert format_bytes(3 * 2**40) == "3.0 TiB"


def test_both_times_must_be_old() -> None:  # R41
    now = 1000
    assert changed_at(mtime_ns=10, ctime_ns=990, now_ns=now) == 990  # copied in with its old mtime
    assert changed_at(mtime_ns=990, ctime_ns=10, now_ns=now) == 990
    assert changed_at(mtime_ns=9999, ctime_ns=10, now_ns=now) == 10  # an mtime that cannot be true
    assert changed_at(mtime_ns=9999, ctime_ns=9999, now_ns=now) > now  # written before the clock was set back


def test_names_are_safe_to_print() -> None:
    assert printable("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert printable("bad\udcff") == "bad\\xff"
    assert printable("größe.mp4") == "größe.mp4"
