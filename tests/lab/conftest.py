"""What the tests on lab hosts share: a reason to skip, and one host that was provisioned from a bare one."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.lab.base import base_file_system
from tests.lab.control import Control
from tests.lab.lab import Lab, running_lab, why_not


@pytest.fixture(scope="session", autouse=True)
def possible() -> None:
    """Skip where no lab can run, with the reason."""
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def provisioned_layers(possible: None, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Layers of a host called gpu-1 that was bare, and was provisioned once in the whole test run."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    layer = shared / "provisioned"
    # The test processes share it: the first one that asks makes it, the others wait.
    with (shared / "provisioned.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not layer.exists():
            with running_lab(shared / "first-lab") as lab:
                host = lab.add("gpu-1")
                first = Control(lab).provision()
                assert first.code == 0, first.output[-3000:]
                lab.snapshot(host, layer)
    return [layer, base_file_system()]


@pytest.fixture(scope="module")
def new_lab(possible: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Lab]]:
    """Makes labs that are taken down after the module's tests."""
    with ExitStack() as labs:
        yield lambda: labs.enter_context(running_lab(tmp_path_factory.mktemp("lab") / "lab"))
