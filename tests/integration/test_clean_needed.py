"""Outputs that the wrapper still needs stay until it does not, or until the cap."""

import os
import time
from collections.abc import Collection
from pathlib import Path

import pytest
from tests.integration.clean_support import free, make, marked

from ltxops.errors import CheckFailed
from ltxops.upkeep.cleaners import clean_pressure, clean_ttl
from ltxops.upkeep.needed import Wrapper

ANY_AGE = 0


class Asked:
    """Answers for a wrapper."""

    def __init__(self, *needed: Path) -> None:
        self.needed: Collection[Path] = needed
        self.grace_seconds = 0.0

    def __call__(self, database_path: Path, *, grace_seconds: float) -> Collection[Path]:
        self.grace_seconds = grace_seconds
        return self.needed


def nobody_knows(database_path: Path, *, grace_seconds: float) -> Collection[Path]:
    raise CheckFailed(f"the job database {database_path} cannot be read")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return marked(tmp_path / "output")


def test_needed_stays_by_every_name_until_it_is_not(output: Path) -> None:  # R42, R43
    needed, free_to_go = make(output / "video/clip.mp4", 5000), make(output / "video/other.mp4", 5000)
    (output / "req-1").mkdir()
    os.link(needed, output / "req-1/clip.mp4")
    question = Asked(output / "req-1/clip.mp4", output / "gone.mp4")
    wrapper = Wrapper(Path("/nowhere"), question, grace_seconds=77)
    for dry_run in (True, False):
        report = clean_ttl(str(output), ANY_AGE, dry_run, wrapper)
        assert (report.kept_needed, report.deleted_files, report.failure) == (2, 1, None)
        assert set(report.needed) == {"video/clip.mp4", "req-1/clip.mp4"}
        assert any("the wrapper still needs it" in line for line in report.details())
    assert question.grace_seconds == 77
    assert needed.exists()
    assert not free_to_go.exists()
    question.needed = ()
    assert clean_ttl(str(output), ANY_AGE, False, wrapper).deleted_files == 2


def test_names_relative_to_the_output_folder_are_understood(output: Path) -> None:
    needed = make(output / "clip.mp4", 5000)
    report = clean_ttl(str(output), ANY_AGE, wrapper=Wrapper(Path("/nowhere"), Asked(Path("clip.mp4"))))
    assert (report.kept_needed, needed.exists()) == (1, True)


def test_after_the_cap_nothing_is_needed(output: Path) -> None:  # R42
    needed = make(output / "clip.mp4", 5000)
    time.sleep(1.1)
    report = clean_ttl(str(output), ANY_AGE, wrapper=Wrapper(Path("/nowhere"), Asked(needed), cap_seconds=1))
    assert (report.deleted_files, needed.exists()) == (1, False)


def test_when_nobody_knows_everything_stays_until_the_cap(output: Path) -> None:  # R42
    video = make(output / "clip.mp4", 5000)
    report = clean_ttl(str(output), ANY_AGE, wrapper=Wrapper(Path("/nowhere"), nobody_knows))
    assert video.exists()
    assert report.failure is not None
    assert report.failure.exit_code == 1
    assert "cannot be read" in str(report.failure)
    time.sleep(1.1)
    clean_ttl(str(output), ANY_AGE, wrapper=Wrapper(Path("/nowhere"), nobody_knows, cap_seconds=1))
    assert not video.exists()


def test_pressure_keeps_it_too(output: Path) -> None:  # R42, R44
    needed, other = make(output / "needed.mp4", 50_000), make(output / "other.mp4", 50_000)
    wanted = free(output) + 2**40
    report = clean_pressure(str(output), wanted, ANY_AGE, wrapper=Wrapper(Path("/nowhere"), Asked(needed)))
    assert (needed.exists(), other.exists(), report.kept_needed) == (True, False, 1)
    assert report.failure is not None
    assert report.failure.exit_code == 4
