"""When the programs start: while the weights arrive where none ran, after them where some did."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.demo_host import REPO, Demo, new_host


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = new_host(tmp_path_factory.mktemp("early"))
    yield demo
    assert demo.script("--down").returncode == 0
    assert demo.processes() == set()


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A manifest whose lock promises another content of one weight than the hub has."""
    for name in ("models.yaml", "models.lock.yaml"):
        (tmp_path / name).write_text((REPO / "inventory/demo" / name).read_text())
    lock = tmp_path / "models.lock.yaml"
    wrong, count = re.subn(r"sha256: [0-9a-f]{64}", f"sha256: {'a' * 64}", lock.read_text(), count=1)
    assert count == 1
    lock.write_text(wrong)
    return str(tmp_path / "models.yaml")


def test_programs_start_before_the_weights_are_there_and_those_that_run_wait_for_them(
    host: Demo, broken: str
) -> None:
    first = host.run(models_manifest=broken)
    assert "'models : Wait for the weights'" in first.stdout, first.stdout[-3000:] + first.stderr[-1000:]
    started = host.pids()
    assert all(started.values()), started
    assert host.curl("/queue")[0] == 401
    assert host.authorized("/queue")[0] == 200

    # Weights that do not come leave what runs as it is, though it was given other settings.
    failed = host.run(models_manifest=broken, comfyui_embedded_seconds_per_step=0.001)
    assert failed.returncode != 0
    assert "[ltxops exit" in failed.stdout.rsplit("PLAY RECAP", 1)[1]
    assert host.pids() == started

    well = host.run(comfyui_embedded_seconds_per_step=0.001)
    assert well.returncode == 0, well.stdout[-3000:]
    changed = {name for name, pid in host.pids().items() if pid != started[name]}
    assert changed == {"comfyui"}
