"""What went wrong with the programs of a host, as the watchdog noted it: read, added to, and counted."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

#: So many of the last faults are kept; the totals count all.
KEPT = 200
_MEMORY = re.compile(r"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|\bMemoryError\b")
#: After these the process can use its GPU no more (CUDA runtime API, "the process must be terminated").
_CUDA = re.compile(
    r"CUDA error: |device-side assert triggered|illegal memory access|uncorrectable ECC error", re.IGNORECASE
)


@dataclass(frozen=True)
class Fault:
    """One fault. `at` is in seconds since the epoch; `kind` is restart, hang, memory or cuda."""

    at: float
    program: str
    kind: str
    detail: str


@dataclass
class Record:
    """All that was noted: the last faults, oldest first, and how many of each program and kind there were."""

    faults: list[Fault]
    totals: dict[str, int]

    def add(self, fault: Fault) -> None:
        """Note one more."""
        self.faults = [*self.faults, fault][-KEPT:]
        key = f"{fault.program} {fault.kind}"
        self.totals[key] = self.totals.get(key, 0) + 1

    def since(self, moment: float) -> list[Fault]:
        """Return the faults at or after `moment`."""
        return [fault for fault in self.faults if fault.at >= moment]


def kind_of(line: str) -> str:
    """Return memory or cuda for a line of a log that says so, else an empty text."""
    if _MEMORY.search(line):
        return "memory"
    return "cuda" if _CUDA.search(line) else ""


def kills_for_memory(vmstat: str) -> int:
    """Return how many processes the kernel has killed for lack of memory, as /proc/vmstat says, or 0."""
    found = re.search(r"^oom_kill (\d+)$", vmstat, re.MULTILINE)
    return int(found[1]) if found else 0


def load(path: Path) -> Record:
    """Read the record; one that is missing or spoilt is empty. Raises OSError where it may not be read."""
    try:
        content = json.loads(path.read_text())
        return Record([Fault(**entry) for entry in content["faults"]], dict(content["totals"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return Record([], {})


def save(path: Path, record: Record) -> None:
    """Write the record whole or not at all; its time of change tells that the watchdog lives."""
    part = path.with_suffix(".part")
    part.write_text(
        json.dumps({"faults": [asdict(fault) for fault in record.faults], "totals": record.totals})
    )
    part.replace(path)
