"""What is done to each client in turn, and the measured runs that come of it."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import bars, servers, tree, warm
from benchmarks.cdn import FAULTS, Behaviour
from benchmarks.clients import OURS, Client, Job, environment
from benchmarks.measure import Measured, measure
from benchmarks.results import Result
from benchmarks.tree import Judgement, Promise

NAMES = ("unlimited", "paced", "cut", "warm", "faults")
PACE_BYTES = 40_000_000
CUT_BYTES = 200_000_000

# Some clients count a connection that brought less than this as a failure.
_LEAST_CUT_BYTES = 20_000_000
_DEADLINE_SECONDS = 900.0


def in_turn(clients: Sequence[Client], turn: int) -> list[Client]:
    """Return the clients in their order, and in the opposite one every second turn."""
    return list(clients) if turn % 2 == 0 else list(reversed(clients))


def cut_bytes(scale: float) -> int:
    """Return after how much a connection is cut: in proportion to the files, but never a trickle."""
    return max(round(CUT_BYTES * scale), _LEAST_CUT_BYTES)


@dataclass(frozen=True)
class Bench:
    """One prepared run: the files, the hub in front of them, who is compared, and where to `say` results."""

    work: Path
    source: Path
    manifest: Path
    promises: Mapping[str, Promise]
    hub: str
    cdn_port: int
    scale: float
    clients: Sequence[Client]
    repeat: int
    fault_seconds: float
    say: Callable[[Result], None]

    def run(self, name: str) -> list[Result]:
        """Run one scenario of NAMES. Raises CheckFailed when a server of ours does not start."""
        runs = {"warm": self._warm, "faults": self._faults}.get(name, lambda: self._cold(name))
        results = []
        for result in runs():
            self.say(result)
            results.append(result)
        return results

    def _cold(self, name: str) -> Iterator[Result]:
        behaviour = {
            bars.UNLIMITED: Behaviour(),
            bars.PACED: Behaviour(pace_bytes=PACE_BYTES),
            bars.CUT: Behaviour(cut_bytes=cut_bytes(self.scale)),
        }[name]
        with self._cdn(behaviour):
            # Only without a limit is the noise of a machine of the size of what is measured.
            for turn in range(self.repeat if name == bars.UNLIMITED else 1):
                for client in in_turn(self.clients, turn):
                    with self._folder() as folder:
                        yield self._fetch(name, client, self._job(folder, "all"), _DEADLINE_SECONDS)

    def _warm(self) -> Iterator[Result]:
        with self._cdn(Behaviour()):
            for client in self.clients:
                with self._folder() as folder:
                    job = self._job(folder, "all")
                    self._measure(client, job, _DEADLINE_SECONDS)
                    yield self._fetch(bars.WARM, client, job, _DEADLINE_SECONDS)
        for client in self.clients:
            if client.name == OURS:
                yield from self._warm_manifest(client)

    def _warm_manifest(self, client: Client) -> Iterator[Result]:
        with self._folder() as folder:
            manifest, root = warm.write_store(folder)
            job = replace(self._job(folder, "all"), manifest=manifest, target=root)
            for _ in range(self.repeat):
                with warm.opens(root / "loras") as opens:
                    measured = self._measure(client, job, _DEADLINE_SECONDS)
                result = _result(bars.WARM_MANIFEST, client, measured, Judgement((), ()))
                yield replace(result, opened=opens.count)

    def _faults(self) -> Iterator[Result]:
        for fault in FAULTS:
            for client in self.clients:
                # A new CDN for each client: it counts what it has done wrong already.
                with self._cdn(Behaviour(fault=fault)), self._folder() as folder:
                    yield self._fetch(
                        bars.FAULT + fault, client, self._job(folder, "one"), self.fault_seconds
                    )

    def _fetch(self, scenario: str, client: Client, job: Job, deadline_seconds: float) -> Result:
        tree.fill_page_cache(self.source, job.files)
        # What the client before left unwritten is not this one's to pay for.
        os.sync()
        measured = self._measure(client, job, deadline_seconds)
        begin = time.monotonic()
        os.sync()
        on_disk = measured.seconds + time.monotonic() - begin
        result = _result(scenario, client, measured, tree.judge(job.target, job.files))
        return replace(result, on_disk_seconds=on_disk)

    def _measure(self, client: Client, job: Job, deadline_seconds: float) -> Measured:
        command = client.command(job)
        return measure(command, environment(job, os.environ), self.work / "client.log", deadline_seconds)

    def _cdn(self, behaviour: Behaviour) -> AbstractContextManager[str]:
        return servers.cdn(self.source, self.cdn_port, behaviour, self.work / "cdn.log")

    def _folder(self) -> "tempfile.TemporaryDirectory[str]":
        return tempfile.TemporaryDirectory(dir=self.work, prefix="client-")

    def _job(self, folder: str, profile: str) -> Job:
        files = self.promises if profile == "all" else {tree.ONE: self.promises[tree.ONE]}
        target, scratch = Path(folder, "models"), Path(folder, "scratch")
        target.mkdir(exist_ok=True)
        scratch.mkdir()
        return Job(self.hub, self.manifest, profile, files, target, scratch)


def _result(scenario: str, client: Client, measured: Measured, judgement: Judgement) -> Result:
    return Result(
        scenario=scenario,
        client=client.name,
        seconds=measured.seconds,
        cpu_seconds=measured.cpu_seconds,
        peak_bytes=measured.peak_bytes,
        read_bytes=measured.read_bytes,
        exit_code=measured.exit_code,
        on_disk_seconds=measured.seconds,
        missing=judgement.missing,
        bad=judgement.bad,
        last_line=measured.last_line,
    )
