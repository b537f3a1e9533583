"""How long a sync will take: from the rate given, the last one measured, or an assumed one."""

from pathlib import Path

import pytest

from ltxops.errors import BadInput
from ltxops.models import rate

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("text", "bytes_per_second"),
    [("100MB/s", 100e6), ("80MiB/s", 80 * MIB), ("1Gbit/s", 125e6), ("2.5Gbit/s", 312.5e6)],
)
def test_a_rate_is_read_as_people_write_it(text: str, bytes_per_second: float) -> None:
    assert rate.parse(text) == rate.Rate(bytes_per_second, "option")


@pytest.mark.parametrize("text", ["", "fast", "100", "100MB", "0MB/s", "-1MB/s", "1 MB/s", "1Xbit/s"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="write it like"):
        rate.parse(text)


def test_the_last_sync_that_says_something_is_remembered(tmp_path: Path) -> None:
    assert rate.known(tmp_path).source == "assumed"
    rate.record(tmp_path, 64 * MIB, 0.5)
    rate.record(tmp_path, 5, 60)
    assert rate.known(tmp_path) == rate.Rate(128 * MIB, "last sync")
    for damaged in ("", "[]", '{"bytes_per_second": 0}', '{"bytes_per_second": "x"}', "{}"):
        (tmp_path / "rate.json").write_text(damaged, encoding="utf-8")
        assert rate.known(tmp_path).source == "assumed"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.1, "1 s"), (40, "40 s"), (725, "12 min"), (4800, "1 h 20 min")]
)
def test_a_duration_is_said_as_people_say_it(seconds: float, words: str) -> None:
    assert rate.in_words(seconds) == words
