"""What the provisioning benchmark makes of what it measured."""

from dataclasses import replace

from benchmarks.provision import Found, as_markdown, judge
from plugins.callback.durations import longest

GOOD = Found(
    installs=100.0,
    download=150.0,
    bare=175.0,
    second=12.0,
    onstart=[3.4, 2.1, 2.9],
    one=150.0,
    together=700.0,
    longest=["   3.00 s  smoke : Look"],
)


def missed(found: Found) -> list[int]:
    return [number for number, bar in enumerate(judge(found)) if not bar.held]


def test_each_bar_is_missed_by_its_own_figure_alone() -> None:
    assert missed(GOOD) == []
    assert missed(replace(GOOD, download=99.0)) == [0, 1]
    assert missed(replace(GOOD, bare=181.0)) == [1]
    assert missed(replace(GOOD, second=15.1)) == [2]
    assert missed(replace(GOOD, second_changed=1)) == [2]
    assert missed(replace(GOOD, onstart=[3.1, 3.2])) == [3]
    assert missed(replace(GOOD, together=721.0)) == [4]


def test_the_table_names_figures_verdicts_and_the_longest_tasks() -> None:
    text = as_markdown(GOOD, judge(GOOD))
    assert "| 1.17 x (175.0 s) | pass |" in text
    assert "smoke : Look" in text
    assert "MISSED" in as_markdown(replace(GOOD, second=20.0), judge(replace(GOOD, second=20.0)))


def test_the_longest_tasks_come_first_and_no_more_than_asked_for() -> None:
    lines = longest([("a", 0.5), ("b", 12.25), ("c", 3.0)], 2)
    assert [line.split()[-1] for line in lines] == ["b", "c"]
    assert lines[0] == "  12.25 s  b"
