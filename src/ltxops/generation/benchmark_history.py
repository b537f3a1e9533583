"""What earlier benchmarks took: kept one JSON object a run, and what a new result looks like beside them."""

import fcntl
import json
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltxops.errors import CheckFailed
from ltxops.models.durable import disk_errors_explained

#: The work of one run, so that score = work / seconds: 100 s give 1.0 (Vast's serverless documentation).
WORK = 100.0
#: Machines with the same GPU model lie closer together than this (same source).
TOLERANCE = 0.20


def score(seconds: float) -> float:
    """Return the score of a run that took `seconds`."""
    return round(WORK / seconds, 4)


def gpu_model(devices: Sequence[Mapping[str, Any]]) -> str:
    """Return the model of the first device in ComfyUI's `/system_stats`.

    PyTorch's name is between the device and the allocator there: `cuda:0 NVIDIA H200 : cudaMallocAsync`.
    """
    name = str(devices[0].get("name") or "") if devices else ""
    first, _, rest = name.partition(" ")
    if first.startswith("cuda:"):
        name = rest.rpartition(" : ")[0] or rest
    return name.strip() or "unknown"


@dataclass(frozen=True)
class Comparison:
    """A result beside earlier ones: how many, their median in seconds, and by which part it deviates.

    `deviation` is 0.25 for a result that took a quarter longer, -0.25 for one that took a quarter less.
    """

    runs: int
    median_seconds: float
    deviation: float


def compare(
    entries: Iterable[Mapping[str, Any]], gpu: str, workflow: str, seconds: float
) -> Comparison | None:
    """Hold `seconds` against earlier runs of the same workflow on the same GPU model; None without any."""
    earlier = [entry["seconds"] for entry in entries if (entry["gpu"], entry["workflow"]) == (gpu, workflow)]
    if not earlier:
        return None
    median = statistics.median(earlier)
    return Comparison(len(earlier), round(median, 3), round(seconds / median - 1.0, 4))


def warnings(gpu: str, seconds: float, spread: float, comparison: Comparison | None) -> list[str]:
    """Return one sentence for each thing that a person should look at.

    `spread` is (longest - shortest) / median of the runs; `seconds` is their median.
    """
    said = []
    if comparison is not None and abs(comparison.deviation) > TOLERANCE:
        by = f"{abs(comparison.deviation):.0%} {'more' if comparison.deviation > 0 else 'less'}"
        said.append(
            f"a run takes {seconds:.3g} s, {by} than the {comparison.median_seconds:.3g} s of "
            f"{comparison.runs} earlier runs on {gpu}: look at heat, power limit and configuration "
            "(nvidia-smi -q -d TEMPERATURE,POWER,PERFORMANCE)"
        )
    if spread > TOLERANCE:
        said.append(
            f"the runs lie {spread:.0%} apart: something else uses the GPU, or it is throttled while it works"
        )
    return said


def read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the runs in the history, and how many lines hold none (a file cut by a crash, or edited)."""
    entries, passed_over = [], 0
    with disk_errors_explained(path):
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if _is_run(entry):
            entries.append(entry)
        elif line.strip():
            passed_over += 1
    return entries, passed_over


def append(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Add runs to the history: all of them or none, whoever else writes to it.

    Raises DiskFull or CheckFailed.
    """
    lines = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
    with disk_errors_explained(path), path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(-1, os.SEEK_END)
            # A line that a crash cut off must not swallow the next one.
            lines = lines if file.read(1) == b"\n" else b"\n" + lines
        try:
            if file.write(lines) != len(lines):
                raise CheckFailed(f"{path} could not be written whole; is the disk full?")
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(size)
            raise


def _is_run(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("gpu"), str)
        and isinstance(entry.get("workflow"), str)
        and type(entry.get("seconds")) in (int, float)
        and 0 < entry["seconds"] < math.inf
    )
