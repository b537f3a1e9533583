"""What a fetch decides without a server: ranges, waits, connections, order, and what an answer is worth."""

from datetime import datetime, timezone

import pytest

from ltxops.models.answers import LinkRefused, PassingFault, Unlike, judge, linked_problem
from ltxops.models.hfcache import cache_folder
from ltxops.models.hub import Hub
from ltxops.models.local import split_twins
from ltxops.models.lock import LockedFile
from ltxops.models.order import fetch_order
from ltxops.models.pace import Pace
from ltxops.models.plan import Wanted
from ltxops.models.ranges import MIB, Spans, range_bytes
from ltxops.models.retry import (
    LONGEST_WAIT_SECONDS,
    Passing,
    asked_wait_seconds,
    backoff_seconds,
    retried,
)

SIZE = 1000


def wanted(dest: str, size: int = 100 * MIB, sha256: str | None = None) -> Wanted:
    return Wanted("m", "o/r", "c" * 40, LockedFile(dest.rsplit("/", 1)[-1], size, sha256), dest, False)


def test_spans_merge_what_touches_and_count_what_is_new() -> None:
    spans = Spans()
    assert spans.add(10, 20) == 10
    assert spans.add(30, 40) == 10
    assert spans.add(15, 35) == 10
    assert list(spans) == [(10, 40)]
    assert spans.add(40, 50) == 10
    assert spans.add(0, 5) == 5
    assert spans.add(12, 48) == 0
    assert spans.add(7, 7) == 0
    assert list(spans) == [(0, 5), (10, 50)]
    assert (spans.total, spans.prefix()) == (45, 5)


def test_spans_know_their_gaps() -> None:
    spans = Spans()
    assert spans.first_gap(100) == (0, 100)
    assert spans.prefix() == 0
    spans.add(20, 30)
    assert spans.first_gap(100) == (0, 20)
    spans.add(0, 10)
    assert spans.first_gap(100) == (10, 20)
    spans.add(10, 20)
    assert spans.first_gap(100) == (30, 100)
    assert spans.first_gap(30) is None
    spans.add(50, 60)
    assert list(spans.missing(0, 100)) == [(30, 50), (60, 100)]
    assert list(spans.missing(35, 55)) == [(35, 50)]
    assert list(spans.missing(50, 60)) == []


@pytest.mark.parametrize(
    ("left", "connections", "expected"),
    [(1, 32, 8), (10**12, 32, 128), (4096 * MIB, 32, 32), (4096 * MIB, 4, 128), (100 * MIB, 1, 25)],
)
def test_ranges_are_a_share_of_what_is_left(left: int, connections: int, expected: int) -> None:
    assert range_bytes(left, connections) == expected * MIB


def rates(pace: Pace, each: float, whole: float, decisions: int) -> list[int]:
    """Decide again and again where a connection brings `each` and the line `whole` at most."""
    return [pace.decide(min(pace.connections * each, whole), busy=False) for _ in range(decisions)]


def test_ranges_are_cut_for_the_connections_that_may_come() -> None:
    searching, held, busy = Pace(32), Pace(32), Pace(32)
    assert (searching.expected, rates(searching, 40e6, 1e12, 1), searching.expected) == (32, [8], 32)
    rates(held, 40e6, 160e6, 2)
    assert (held.connections, held.expected) == (4, 4)
    busy.decide(1e9, busy=True)
    assert busy.expected == 4
    searching.refused(6)
    assert searching.expected == 6


def test_connections_double_while_each_brings_its_share() -> None:
    assert rates(Pace(32), 40e6, 1e12, 4) == [8, 16, 32, 32]
    assert rates(Pace(20), 40e6, 1e12, 4) == [8, 16, 20, 20]
    assert Pace(2).connections == 2


def test_a_step_that_brings_nothing_is_taken_back_and_tried_again_much_later() -> None:
    pace = Pace(32)
    decided = rates(pace, 1e9, 2e9, 60)
    assert decided[:3] == [8, 4, 4]
    assert 1 <= decided[3:].count(8) <= 3


def test_a_slow_start_of_the_last_step_is_enough() -> None:
    pace = Pace(32)
    pace.decide(100.0, busy=False)
    assert pace.decide(130.0, busy=False) == 16


def test_no_step_is_tried_while_the_processors_are_busy_and_one_that_did_not_pay_is_taken_back() -> None:
    pace = Pace(32)
    assert [pace.decide(40e6 * 4, busy=True) for _ in range(3)] == [4, 4, 4]
    assert pace.decide(40e6 * 4, busy=False) == 8
    assert pace.decide(40e6 * 4, busy=True) == 4


def test_a_refusal_ends_the_growth_for_a_while() -> None:
    pace = Pace(32)
    rates(pace, 40e6, 1e12, 2)
    pace.refused(6)
    assert rates(pace, 40e6, 1e12, 10) == [6] * 10
    pace.refused(0)
    assert pace.connections == 1


def test_retry_after_is_seconds_or_a_date() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    assert asked_wait_seconds("7") == 7
    assert asked_wait_seconds("Fri, 02 Jan 2026 03:04:15 GMT", now) == 10
    assert asked_wait_seconds("Fri, 02 Jan 2026 03:04:00 GMT", now) == 0
    assert asked_wait_seconds("9" * 30) == asked_wait_seconds("Sat, 03 Jan 2026 03:04:05 GMT", now) == 60
    assert [asked_wait_seconds(text) for text in (None, "", "soon", "-1", "1.5")] == [None] * 5


def test_waits_double_with_jitter_up_to_a_minute() -> None:
    waits = [backoff_seconds(0.5, failures) for failures in (1, 2, 3)]
    assert all(0.375 * 2**n <= wait <= 0.625 * 2**n for n, wait in enumerate(waits))
    assert len({backoff_seconds(0.5, 1) for _ in range(20)}) > 1
    assert backoff_seconds(0.5, 900) <= LONGEST_WAIT_SECONDS * 1.25


@pytest.mark.parametrize(("progress", "attempts"), [([0] * 9, 3), ([0, 0, 0, 5, 5, 5, 5, 5, 5, 5], 4)])
def test_a_call_is_tried_a_few_times_without_progress(progress: list[int], attempts: int) -> None:
    # R23
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise Passing("busy", wait_seconds=0.0)

    with pytest.raises(Passing, match="busy"):
        retried(fail, attempts=3, first_wait_seconds=0.0, progress=lambda: progress.pop(0))
    assert len(calls) == attempts


def test_what_will_not_pass_is_raised_at_once() -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise KeyError("gone")

    with pytest.raises(KeyError):
        retried(fail, attempts=3, first_wait_seconds=0.0)
    assert len(calls) == 1


def test_what_the_smoke_needs_comes_first() -> None:
    files = [
        wanted("loras/camera.safetensors"),
        wanted("checkpoints/a.safetensors"),
        wanted("diffusion_models/depth.safetensors"),
        wanted("loras/ltx-2-19b-distilled-lora-384.safetensors"),
        wanted("text_encoders/gemma/tokenizer.json", size=100),
        wanted("text_encoders/gemma.safetensors"),
    ]
    assert [item.dest for item in fetch_order(files)] == [
        "text_encoders/gemma/tokenizer.json",
        "checkpoints/a.safetensors",
        "loras/ltx-2-19b-distilled-lora-384.safetensors",
        "text_encoders/gemma.safetensors",
        "loras/camera.safetensors",
        "diffusion_models/depth.safetensors",
    ]


def test_the_same_content_is_told_by_its_hash() -> None:
    files = [wanted("a", sha256="1"), wanted("b"), wanted("c", sha256="1"), wanted("d"), wanted("e", 5, "1")]
    first, again = split_twins(files)
    assert [item.dest for item in first] == ["a", "b", "d", "e"]
    assert [item.dest for item in again] == ["c"]


def test_good_answers() -> None:
    part = {"Content-Range": "bytes 10-19/1000", "ETag": '"x"'}
    body = judge(206, part, path="a.safetensors", size=SIZE, start=10, end=30)
    assert (body.start, body.end, body.whole, body.version) == (10, 20, False, '"x"')
    body = judge(200, {"Content-Length": "1000"}, path="a.json", size=SIZE, start=0, end=SIZE)
    assert (body.end, body.whole) == (SIZE, False)
    assert judge(200, {}, path="a.json", size=SIZE, start=10, end=SIZE).whole
    unknown = {"Content-Range": "bytes 10-29/*"}
    assert judge(206, unknown, path="a.json", size=SIZE, start=10, end=30).end == 30


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (206, {}, "not which"),
        (206, {"Content-Range": "bytes 11-29/1000"}, "sends bytes 11 to 29"),
        (206, {"Content-Range": "bytes 10-30/1000"}, "sends bytes 10 to 30"),
        (206, {"Content-Range": "bytes 10-29/999"}, "promises 999 bytes"),
        (200, {"Content-Length": "999"}, "promises 999 bytes"),
        (200, {"Content-Length": "many"}, "promises many bytes"),
        (200, {"Content-Type": "text/html; charset=utf-8", "Content-Length": "1000"}, "HTML page"),
        (200, {"Content-Encoding": "gzip"}, "encoded"),
        (416, {}, "no bytes from 10"),
        (204, {}, "answered 204"),
    ],
)
def test_answers_that_are_not_the_file(status: int, headers: dict[str, str], reason: str) -> None:
    with pytest.raises(Unlike, match=reason):
        judge(status, headers, path="a.safetensors", size=SIZE, start=10, end=30)


def test_answers_that_pass_and_links_that_expired() -> None:
    with pytest.raises(PassingFault) as caught:
        judge(503, {"Retry-After": "3"}, path="a", size=SIZE, start=0, end=9)
    assert (caught.value.wait_seconds, caught.value.busy) == (3, True)
    with pytest.raises(LinkRefused):
        judge(403, {}, path="a", size=SIZE, start=0, end=9)


def test_the_hubs_word_on_a_file() -> None:
    sha256 = "ab" * 32
    assert linked_problem({"X-Linked-Size": "1000", "X-Linked-Etag": f'"{sha256}"'}, SIZE, sha256) is None
    assert linked_problem({}, SIZE, sha256) is None
    assert linked_problem({"X-Linked-Etag": '"of-a-mirror"'}, SIZE, sha256) is None
    assert "has 5 bytes" in (linked_problem({"X-Linked-Size": "5"}, SIZE, sha256) or "")
    assert "has sha256 cdcd" in (linked_problem({"X-Linked-Etag": f'"{"cd" * 32}"'}, SIZE, sha256) or "")


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c", "HOME": "/d"}, "/c/huggingface/hub"),
        ({"HOME": "/d"}, "/d/.cache/huggingface/hub"),
    ],
)
def test_where_the_cache_is(environment: dict[str, str], folder: str) -> None:
    assert str(cache_folder(environment)) == folder


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://hub.example/x", True),
        ("https://HUB.example:443/x", True),
        ("http://hub.example/x", False),
        ("https://hub.example:8443/x", False),
        ("https://cdn.hub.example/x", False),
        ("https://hub.example.evil/x", False),
        ("https://hub.example@evil/x", False),
    ],
)
def test_the_token_is_for_one_origin(url: str, sent: bool) -> None:
    # R24
    assert ("Authorization" in Hub("https://hub.example", "hf_x").headers_for(url)) is sent


def test_mirrors_have_no_token() -> None:
    # R24
    hub = Hub("https://hub.example", "hf_x", mirrors=["https://mirror.example"])
    assert [each.token for each in hub.chain] == ["hf_x", None]
