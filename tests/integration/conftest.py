"""Fixtures of the tests of weights, and clients that wait. A module that wants another one has it itself."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.integration.faulty_hub import write_manifest
from tests.integration.models_support import RunningHub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    """An embedded hub that asks for no token."""
    with RunningHub(tmp_path) as running:
        yield running


@pytest.fixture
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A manifest of the module's FILES, with its lock."""
    return write_manifest(tmp_path, request.module.FILES)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where a root will be."""
    return tmp_path / "models"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where an empty home folder will be."""
    return tmp_path / "home"


@pytest.fixture
def background() -> Iterator[Callable[..., "Future[Any]"]]:
    """Call something in a thread: a client that waits."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit
