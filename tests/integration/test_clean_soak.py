"""Outputs come faster than the disk allows for two minutes; both cleaners run, and clients download."""

import hashlib
import json
import multiprocessing
import os
import random
import re
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from tests.integration.clean_support import MIB, NEEDS_ROOT, disk, marked

from ltxops.upkeep.disk import free_bytes, shortage
from ltxops.upkeep.janitor import Janitor
from ltxops.upkeep.janitor_config import load

pytestmark = NEEDS_ROOT

SECONDS = 120.0
DISK_MIB = 96
#: What the wrapper would refuse new jobs below; a video of this test has 1 MiB.
FLOOR = 8 * MIB
WRITES_A_SECOND = 30
PENDING_SECONDS = 15.0


def listed(database_path: Path, *, grace_seconds: float) -> Collection[Path]:
    """Stand in for the wrapper's answer: the names are the lines of a file."""
    return [Path(line) for line in database_path.read_text().splitlines()]


def clean_again_and_again(config: str, log: str) -> None:
    with Path(log).open("a", buffering=1) as sink:
        Janitor(load(config), listed, lambda line: print(line, file=sink)).run()


class Outputs:
    """What was written, what somebody waits for, and everything that went wrong."""

    def __init__(self, output: Path, pending_file: Path) -> None:
        self.output = output
        self.pending_file = pending_file
        self.digests: dict[Path, str] = {}
        self.pending: dict[Path, float] = {}
        self.refused = 0
        self.downloads = 0
        self.wrong: list[str] = []
        self.ended = threading.Event()
        self._guard = threading.Lock()
        pending_file.touch()

    def _wait_for(self, path: Path, until: float | None) -> None:
        """Let somebody wait for `path` until then, or nobody any more, and tell the cleaners."""
        part = self.pending_file.with_suffix(".part")
        with self._guard:
            if until is None:
                del self.pending[path]
            else:
                self.pending[path] = until
            part.write_text("".join(f"{name}\n" for name in self.pending))
            part.replace(self.pending_file)

    def write_all(self) -> None:
        """Write video after video, and begin none while the wrapper would refuse the job."""
        number = 0
        while not self.ended.is_set():
            if shortage(str(self.output), free_bytes(self.output), FLOOR):
                self.refused += 1
                time.sleep(0.05)
                continue
            path = self.output / f"req-{number % 50}" / f"{number:06}.mp4"
            try:
                if number % 10 == 0:
                    self._wait_for(path, time.monotonic() + PENDING_SECONDS)
                self._write(path)
            except (FileNotFoundError, FileExistsError):
                continue  # its folder was empty, and went just before the file was there
            except OSError as error:
                self.wrong.append(f"writing {path}: {error}")
                return
            number += 1
            time.sleep(1 / WRITES_A_SECOND)

    def _write(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        content = os.urandom(MIB)
        with path.open("wb") as file:
            file.write(content)
            os.fsync(file.fileno())
            # While it is open it stays, however long this takes.
            self.digests[path] = hashlib.sha256(content).hexdigest()

    def watch_pending(self) -> None:
        """See that what is pending is there, and settle it after a while."""
        while not self.ended.wait(0.2):
            for path, until in list(self.pending.items()):
                if path in self.digests and not path.exists():
                    self.wrong.append(f"{path} was pending and is gone")
                if time.monotonic() > until:
                    self._wait_for(path, None)

    def download(self) -> None:
        """Open a video, old ones too, read it slowly, and see that it stays under its name all the while."""
        chooser = random.Random(1)
        while not self.ended.is_set():
            there = [path for path in list(self.digests) if path.exists()]
            if not there:
                time.sleep(0.1)
                continue
            path = chooser.choice(there[: len(there) // 2 + 1])
            try:
                with path.open("rb") as file:
                    digest = hashlib.sha256()
                    while chunk := file.read(MIB // 16):
                        digest.update(chunk)
                        time.sleep(0.1)
                    if os.fstat(file.fileno()).st_nlink != 1:
                        self.wrong.append(f"{path} was deleted under a download")
            except FileNotFoundError:
                continue  # deleted just before it was opened
            if digest.hexdigest() != self.digests[path]:
                self.wrong.append(f"{path} was not what was written")
            self.downloads += 1


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    with disk(tmp_path, "ext4", DISK_MIB) as mountpoint:
        yield marked(mountpoint / "output")


def configurations(output: Path, folder: Path, database: Path) -> list[Path]:
    shared = {"every": "1s", "dir": str(output), "wrapper": {"database": str(database)}}
    jobs = [
        {**shared, "name": "old", "run": "ttl", "older_than": "10s"},
        {**shared, "name": "low", "run": "pressure", "older_than": "2s", "min_free": "32MiB"},
    ]
    files = [folder / f"{job['name']}.yaml" for job in jobs]
    for file, job in zip(files, jobs, strict=True):
        file.write_text(json.dumps({"jobs": [job]}))
    return files


def test_the_disk_never_fills_and_nothing_needed_is_lost(
    place: Path, tmp_path: Path
) -> None:  # R37, R42, R44
    outputs = Outputs(place, tmp_path / "pending")
    log = tmp_path / "log"
    spawn = multiprocessing.get_context("spawn")
    cleaners = [
        spawn.Process(target=clean_again_and_again, args=(str(config), str(log)))
        for config in configurations(place, tmp_path, outputs.pending_file)
    ]
    threads = [
        threading.Thread(target=work)
        for work in (outputs.write_all, outputs.watch_pending, outputs.download, outputs.download)
    ]
    lowest = free_bytes(place)
    for cleaner in cleaners:
        cleaner.start()
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and not outputs.wrong:
            lowest = min(lowest, free_bytes(place))
            time.sleep(0.05)
    finally:
        outputs.ended.set()
        for thread in threads:
            thread.join()
        for cleaner in cleaners:
            cleaner.terminate()
            cleaner.join()
    text = log.read_text()
    written, left = set(outputs.digests), {path for path in outputs.digests if path.exists()}
    deleted = re.findall(r"job (?:old|low):   deleted (\S+\.mp4) \(", text)
    assert outputs.wrong == []
    assert lowest > 0
    assert [cleaner.exitcode for cleaner in cleaners] == [0, 0]
    assert sorted(str(place / name) for name in deleted) == sorted(map(str, written - left))
    # It was a test: more was written than the disk holds, and both cleaners had to work.
    assert len(written) > 5 * DISK_MIB
    assert outputs.downloads > 20
    assert "job old:   deleted" in text
    assert "job low:   deleted" in text
    assert "needs it" in text
    assert "Traceback" not in text
