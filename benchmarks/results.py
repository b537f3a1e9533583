"""What was measured, and the sentences and medians made of it. Decisions only."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.clients import CLIENTS


@dataclass(frozen=True)
class Result:
    """One run of one client. `exit_code` is None when it was ended at its deadline.

    `missing` and `bad` are what this benchmark itself found in the client's folder: promised paths that are
    not there, and paths with other bytes than promised under their final name. `on_disk_seconds` is `seconds`
    and the time that the kernel then took to write out what the client left in memory. `opened` counts
    weights that a warm run opened.
    """

    scenario: str
    client: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    read_bytes: int
    exit_code: int | None
    missing: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()
    opened: int = 0
    on_disk_seconds: float = 0.0
    last_line: str = ""

    @property
    def right(self) -> bool:
        """Whether it said that it was done, and was."""
        return self.exit_code == 0 and not self.missing and not self.bad

    def verdict(self) -> str:
        """Return how it ended, in a few words."""
        if self.right:
            return "right"
        said = "exit 0" if self.exit_code == 0 else f"exit {self.exit_code}"
        if self.exit_code is None:
            said = f"still waiting after {self.seconds:.0f} s"
        found = []
        if self.bad:
            found.append("wrong file left")
        if self.missing:
            found.append("file missing" if len(self.missing) == 1 else f"{len(self.missing)} files missing")
        return f"{said}, {' and '.join(found)}" if found else f"{said}, files right"

    def as_json(self) -> dict[str, Any]:
        """Return everything about it."""
        return asdict(self) | {"right": self.right, "verdict": self.verdict()}


@dataclass(frozen=True)
class Summary:
    """The runs of one client in one scenario. Times are medians, memory is the most of all runs.

    `failure` is the verdict of the first run that did not end right; the times then mean little.
    """

    scenario: str
    client: str
    verifies: str
    runs: int
    seconds: float
    on_disk_seconds: float
    cpu_seconds: float
    peak_bytes: int
    failure: str


def summarise(results: Sequence[Result]) -> list[Summary]:
    """Return one summary for each client in each scenario, in the order of their first runs."""
    verifies = {client.name: client.verifies for client in CLIENTS}
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.scenario, result.client), []).append(result)
    return [
        Summary(
            scenario=scenario,
            client=client,
            verifies=verifies[client],
            runs=len(runs),
            seconds=statistics.median(run.seconds for run in runs),
            on_disk_seconds=statistics.median(run.on_disk_seconds for run in runs),
            cpu_seconds=statistics.median(run.cpu_seconds for run in runs),
            peak_bytes=max(run.peak_bytes for run in runs),
            failure=next((run.verdict() for run in runs if not run.right), ""),
        )
        for (scenario, client), runs in groups.items()
    ]
