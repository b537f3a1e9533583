"""What the download benchmark makes of what it measured."""

from typing import Any
from xml.etree import ElementTree

import pytest
from benchmarks import bars, plot, report
from benchmarks.clients import ARIA2C, CURL, HF_VERIFIED, OURS, SHORT
from benchmarks.results import Result, summarise
from benchmarks.scenarios import in_turn


def result(scenario: str, client: str, seconds: float, **more: Any) -> Result:
    given = {"cpu_seconds": 1.0, "peak_bytes": 10_000_000, "read_bytes": 0, "exit_code": 0}
    return Result(scenario=scenario, client=client, seconds=seconds, **(given | more))


GOOD = [
    result(bars.UNLIMITED, OURS, 4.0),
    result(bars.UNLIMITED, HF_VERIFIED, 16.0),
    result(bars.UNLIMITED, ARIA2C, 10.0),
    result(bars.UNLIMITED, CURL, 2.8),
    result(bars.PACED, OURS, 5.0),
    result(bars.PACED, HF_VERIFIED, 35.0),
    result(bars.PACED, ARIA2C, 8.0),
    result(bars.CUT, OURS, 5.2),
    result(bars.WARM_MANIFEST, OURS, 0.3),
    result(bars.FAULT + "flip", OURS, 1.0, exit_code=3, missing=("a",)),
    result(bars.FAULT + "stall", OURS, 20.0),
]


def words(results: list[Result]) -> list[str]:
    return [bar.word for bar in bars.judge(results)]


def test_bars_that_are_just_reached_hold() -> None:
    assert words(GOOD) == ["pass"] * 9
    assert report.verdict(bars.judge(GOOD)) == 0


@pytest.mark.parametrize(
    ("changed", "bar"),
    [
        (result(bars.UNLIMITED, ARIA2C, 9.9), 0),
        (result(bars.UNLIMITED, CURL, 2.7), 1),
        (result(bars.PACED, HF_VERIFIED, 34.0), 2),
        (result(bars.PACED, ARIA2C, 7.9), 3),
        (result(bars.CUT, OURS, 5.3), 4),
        (result(bars.CUT, OURS, 5.0, bad=("a",)), 4),
        (result(bars.WARM_MANIFEST, OURS, 0.5), 5),
        (result(bars.WARM_MANIFEST, OURS, 0.3, opened=1), 5),
        (result(bars.PACED, OURS, 5.0, peak_bytes=150_000_000), 6),
        (result(bars.FAULT + "flip", OURS, 1.0), 7),
        (result(bars.FAULT + "flip", OURS, 1.0, exit_code=3, bad=("a",)), 7),
        (result(bars.FAULT + "flip", OURS, 90.0, exit_code=None, missing=("a",)), 7),
        (result(bars.FAULT + "stall", OURS, 20.0, exit_code=5, missing=("a",)), 8),
    ],
)
def test_each_bar_can_be_missed(changed: Result, bar: int) -> None:
    results = [
        changed if (one.scenario, one.client) == (changed.scenario, changed.client) else one for one in GOOD
    ]
    found = words(results)
    assert found[bar] == "MISSED"
    assert found[:bar] + found[bar + 1 :] == ["pass"] * 8
    assert report.verdict(bars.judge(results)) == 1


def test_what_was_not_run_is_not_judged() -> None:
    assert words([]) == ["not measured"] * 7
    assert report.verdict(bars.judge([])) == 0


def test_a_peer_that_failed_sets_no_bar() -> None:
    failed = result(bars.UNLIMITED, ARIA2C, 1.0, exit_code=1, missing=("a",))
    results = [failed if one.client == ARIA2C and one.scenario == bars.UNLIMITED else one for one in GOOD]
    assert words(results)[0] == "pass"


def test_a_summary_takes_the_median_the_highest_peak_and_the_first_failure() -> None:
    runs = [
        result("unlimited", CURL, 9.0, peak_bytes=5),
        result("unlimited", CURL, 1.0, peak_bytes=7, exit_code=18, bad=("a",)),
        result("unlimited", CURL, 2.0, peak_bytes=6),
    ]
    [summary] = summarise(runs)
    assert (summary.seconds, summary.peak_bytes, summary.runs) == (2.0, 7, 3)
    assert summary.failure == "exit 18, wrong file left"


@pytest.mark.parametrize(
    ("more", "verdict"),
    [
        ({}, "right"),
        ({"exit_code": 0, "bad": ("a",)}, "exit 0, wrong file left"),
        ({"exit_code": 1, "missing": ("a", "b")}, "exit 1, 2 files missing"),
        ({"exit_code": None, "missing": ("a",)}, "still waiting after 90 s, file missing"),
        ({"exit_code": 1}, "exit 1, files right"),
    ],
)
def test_how_a_run_ended_is_said_in_a_few_words(more: dict[str, Any], verdict: str) -> None:
    assert result("cut", CURL, 90.0, **more).verdict() == verdict


def test_every_second_turn_goes_the_other_way() -> None:
    clients = list(SHORT.values())
    assert in_turn(clients, 0) == in_turn(clients, 2) == clients
    assert in_turn(clients, 1) == clients[::-1]


def test_the_plot_is_an_svg_with_a_bar_for_each_client() -> None:
    root = ElementTree.fromstring(plot.as_svg([*GOOD, result(bars.CUT, CURL, 1.0, exit_code=18, bad=("<",))]))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count(OURS) == 3
    assert "1.0 s, exit 18, wrong file left" in texts


def test_the_markdown_has_every_table() -> None:
    facts = {"bytes": 4_260_000_000, "files": 13, "cpus": 2, "kernel": "Linux 6", "versions": {"curl": "8"}}
    text = report.as_markdown(GOOD, bars.judge(GOOD), facts)
    assert text.startswith("4.26 GB in 13 files, 2 CPUs, Linux 6, hub and CDN on the same machine; curl 8.\n")
    assert "| ltxops | 4.00 | 0.00 | 1.0 | 10 | sha256 | right |" in text
    assert "| stall | right (20 s) |" in text
    assert text.count("| pass |") == 9
