"""The bars that ours has to clear, as ratios within one run. Decisions only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.cdn import LIES
from benchmarks.clients import ARIA2C, CURL, HF_VERIFIED, OURS
from benchmarks.results import Result, Summary, summarise

UNLIMITED, PACED, CUT, WARM, WARM_MANIFEST, FAULT = (
    "unlimited",
    "paced",
    "cut",
    "warm",
    "warm-150gb",
    "fault-",
)
WARM_SECONDS = 0.5
MEMORY_BYTES = 150_000_000


@dataclass(frozen=True)
class Bar:
    """One bar and how ours stands to it. `held` is None when what it needs was not measured."""

    text: str
    found: str
    held: bool | None

    @property
    def word(self) -> str:
        """The verdict for a table."""
        return {True: "pass", False: "MISSED", None: "not measured"}[self.held]


def judge(results: Sequence[Result]) -> list[Bar]:
    """Hold the results against every bar."""
    seconds = _times(summarise(results))
    return [
        _verified(seconds),
        _ratio(seconds, UNLIMITED, CURL, 0.7),
        _ratio(seconds, PACED, HF_VERIFIED, 7),
        _ratio(seconds, PACED, ARIA2C, 1.6),
        _cut(seconds),
        _warm(results),
        _memory(results),
        *_faults(results),
    ]


def _times(summaries: Sequence[Summary]) -> Callable[[str, str], float | None]:
    """Return what looks up the median of a client that always ended right; a failed one has no time."""
    right = {(item.scenario, item.client): item.seconds for item in summaries if not item.failure}
    tried = {(item.scenario, item.client) for item in summaries}

    def seconds(scenario: str, client: str) -> float | None:
        if (scenario, client) in tried and (scenario, client) not in right:
            return float("inf")
        return right.get((scenario, client))

    return seconds


def _verified(seconds: Callable[[str, str], float | None]) -> Bar:
    text = "no limit: at least 2.5 x the fastest client that ends with verified bytes"
    ours = seconds(UNLIMITED, OURS)
    peers = [seconds(UNLIMITED, name) for name in (HF_VERIFIED, ARIA2C)]
    known = [peer for peer in peers if peer is not None]
    if ours is None or len(known) < len(peers):
        return Bar(text, "", None)
    return _compare(text, min(known), ours, 2.5)


def _ratio(seconds: Callable[[str, str], float | None], scenario: str, client: str, least: float) -> Bar:
    where = {UNLIMITED: "no limit", PACED: "40 MB/s a connection"}[scenario]
    text = f"{where}: at least {least:g} x {client}"
    ours, peer = seconds(scenario, OURS), seconds(scenario, client)
    return Bar(text, "", None) if ours is None or peer is None else _compare(text, peer, ours, least)


def _compare(text: str, peer: float, ours: float, least: float) -> Bar:
    if ours == float("inf"):
        return Bar(text, "ours failed", False)
    if peer == float("inf"):
        return Bar(text, "the other failed", None)
    return Bar(text, f"{peer / ours:.2f} x ({ours:.1f} s against {peer:.1f} s)", peer / ours >= least)


def _cut(seconds: Callable[[str, str], float | None]) -> Bar:
    text = "connections cut every 200 MB: within 1.3 x of its own uncut time"
    cut, uncut = seconds(CUT, OURS), seconds(UNLIMITED, OURS)
    if cut is None or uncut is None:
        return Bar(text, "", None)
    if float("inf") in (cut, uncut):
        return Bar(text, "ours failed", False)
    return Bar(text, f"{cut / uncut:.2f} x ({cut:.1f} s against {uncut:.1f} s)", cut / uncut <= 1.3)


def _warm(results: Sequence[Result]) -> Bar:
    text = f"warm, 150 GB manifest: under {WARM_SECONDS:g} s and no weight opened"
    runs = [result for result in results if result.scenario == WARM_MANIFEST]
    if not runs:
        return Bar(text, "", None)
    slowest, opened = max(run.seconds for run in runs), max(run.opened for run in runs)
    held = slowest < WARM_SECONDS and not opened and all(run.right for run in runs)
    return Bar(text, f"{slowest:.2f} s, {opened} opened", held)


def _memory(results: Sequence[Result]) -> Bar:
    text = "peak memory of ours under 150 MB in every case"
    peaks = [result.peak_bytes for result in results if result.client == OURS]
    if not peaks:
        return Bar(text, "", None)
    return Bar(text, f"{max(peaks) / 1e6:.0f} MB", max(peaks) < MEMORY_BYTES)


def _faults(results: Sequence[Result]) -> list[Bar]:
    """Return one bar a fault: a lie is refused with nothing bad left, anything else is survived."""
    bars = []
    for result in results:
        if result.client != OURS or not result.scenario.startswith(FAULT):
            continue
        fault = result.scenario.removeprefix(FAULT)
        lie = fault in LIES
        held = not result.bad and bool(result.exit_code) if lie else result.right
        aim = "refused, no wrong file left" if lie else "ends with the right bytes"
        bars.append(Bar(f"{fault}: {aim}", result.verdict(), held))
    return bars
