"""The wall times as bars in an SVG, a block a scenario."""

from collections.abc import Sequence
from html import escape

from benchmarks import bars
from benchmarks.clients import OURS
from benchmarks.report import heading
from benchmarks.results import Result, Summary, summarise

_SHOWN = (bars.UNLIMITED, bars.PACED, bars.CUT, bars.WARM)
_WIDTH, _LABELS, _BARS = 760, 190, 360
_LINE, _TITLE, _GAP = 22, 30, 14
_COLOURS = {"ours": "#1a7f64", "verified": "#5b7aa6", "unverified": "#b3bfcf", "failed": "#d9a3a3"}


def as_svg(results: Sequence[Result]) -> str:
    """Return the plot. A client that did not end right is shown with how it ended."""
    summaries = summarise(results)
    parts, top = [], _GAP
    for scenario in _SHOWN:
        block = [item for item in summaries if item.scenario == scenario]
        if block:
            parts.append(_text(12, top + 18, heading(scenario), weight="bold"))
            parts += _block(block, top + _TITLE)
            top += _TITLE + _LINE * len(block) + _GAP
    parts.append(_legend(top + 14))
    height = top + _LINE + _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" font-family="sans-serif" font-size="13">\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _block(block: Sequence[Summary], top: int) -> list[str]:
    longest = max(item.seconds for item in block)
    parts = []
    for row, item in enumerate(block):
        y, length = top + row * _LINE, max(1.0, _BARS * item.seconds / longest)
        parts.append(_text(_LABELS - 8, y + 14, item.client, anchor="end"))
        parts.append(_box(_LABELS, y + 2, length, _COLOURS[_kind(item)]))
        label = f"{item.seconds:.1f} s" + (f", {item.failure}" if item.failure else "")
        parts.append(_text(_LABELS + length + 6, y + 14, label))
    return parts


def _kind(item: Summary) -> str:
    if item.failure:
        return "failed"
    if item.client == OURS:
        return "ours"
    return "verified" if item.verifies == "sha256" else "unverified"


def _legend(y: int) -> str:
    words = {"ours": "ltxops, sha256", "verified": "sha256", "unverified": "not verified", "failed": "failed"}
    return "\n".join(
        _box(_LABELS + index * 130, y - 12, 14, _COLOURS[kind]) + _text(_LABELS + index * 130 + 20, y, word)
        for index, (kind, word) in enumerate(words.items())
    )


def _box(x: float, y: float, width: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_LINE - 6}" fill="{colour}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="#222222">'
        f"{escape(text)}</text>"
    )
