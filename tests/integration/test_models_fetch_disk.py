"""Fetching to disks that are full, fill up, or cannot reserve space."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.faulty_hub import MIB, FaultyHub, Handler, fetch_all, quick, write_manifest
from tests.integration.mounts import after_a_power_cut, fill, mounted
from tests.support import wait_for

from ltxops.errors import DiskFull, NetworkError

SIZE = 40 * MIB
FILES = {"big.safetensors": os.urandom(SIZE), "small.json": b'{"a": 1}\n' * 5}
BIG = "checkpoints/big.safetensors"
SMALL = "checkpoints/small.json"


@pytest.fixture
def hub() -> Iterator[FaultyHub]:
    with FaultyHub(FILES) as running:
        yield running


def test_too_little_space_is_told_before_the_first_byte(hub: FaultyHub, path: Path, tmp_path: Path) -> None:
    # R20
    with mounted(tmp_path, "tmpfs", "32m") as root:
        with pytest.raises(DiskFull, match=r"not enough disk .* short"):
            fetch_all(path, root, quick(hub.url))
        assert hub.requests == []


def test_what_a_part_has_reserved_counts_as_space_that_is_there(
    hub: FaultyHub, path: Path, tmp_path: Path
) -> None:
    # R20: the second run finds less free than the file is large, but the file has its blocks already.
    with mounted(tmp_path, "tmpfs", "64m") as root:
        hub.hub_fault = lambda request: hub.sent > 10 * MIB and request.refuse(500)
        hub.cdn_fault = lambda request: hub.sent > 10 * MIB and request.refuse(500)
        with pytest.raises(NetworkError):
            fetch_all(path, root, quick(hub.url))
        hub.hub_fault = hub.cdn_fault = None
        before = hub.sent
        report = fetch_all(path, root, quick(hub.url))
        assert (root / BIG).read_bytes() == FILES["big.safetensors"]
        assert report.bytes_fetched == hub.sent - before < SIZE


def fill_on_the_way(hub: FaultyHub, root: Path) -> threading.Event:
    """Fill the disk of `root` at a request after the first range, of 8 MiB at least; return what tells so.

    The small file has been placed and proven by then.
    """
    filled = threading.Event()
    ledger = root / ".ltxops/ledger.json"

    def fill_once(request: Handler) -> bool:
        if not filled.is_set() and hub.sent > SIZE // 8 and request.name == "big.safetensors":
            wait_for(lambda: ledger.exists() and SMALL in ledger.read_text())
            filled.set()
            fill(root)
        return False

    hub.cdn_fault = fill_once
    return filled


def test_space_that_is_reserved_cannot_be_taken_by_others(hub: FaultyHub, path: Path, tmp_path: Path) -> None:
    # R21
    with mounted(tmp_path, "tmpfs", "64m") as root:
        filled = fill_on_the_way(hub, root)
        fetch_all(path, root, quick(hub.url))
        assert filled.is_set()
        assert (root / BIG).read_bytes() == FILES["big.safetensors"]


def test_a_disk_that_fills_up_while_bytes_are_written_loses_nothing(
    hub: FaultyHub, path: Path, tmp_path: Path
) -> None:
    # R21: ext2 cannot reserve space.
    with mounted(tmp_path, "ext2", "64M") as root:
        filled = fill_on_the_way(hub, root)
        with pytest.raises(DiskFull, match=r"filled up .*finished files are intact|the disk is full"):
            fetch_all(path, root, quick(hub.url))
        assert filled.is_set()
        assert not (root / BIG).exists()
        (root / "filler").unlink()
        fetch_all(path, root, quick(hub.url))
        assert (root / BIG).read_bytes() == FILES["big.safetensors"]
        assert (root / "checkpoints/small.json").read_bytes() == FILES["small.json"]
        assert list((root / ".ltxops/incoming").iterdir()) == []


def test_a_disk_that_fills_up_between_files_keeps_those_that_are_finished(tmp_path: Path) -> None:
    # R21: four files are open at a time, so the space for the last ones is asked for when it is gone.
    files = {f"file{number}.safetensors": os.urandom(9 * MIB) for number in range(6)}
    path = write_manifest(tmp_path, files)
    with mounted(tmp_path, "tmpfs", "80m") as root, FaultyHub(files) as hub:
        filled = threading.Event()

        def fill_once(request: Handler) -> bool:
            if not filled.is_set():
                filled.set()
                fill(root)
            return False

        hub.cdn_fault = fill_once
        with pytest.raises(DiskFull, match=r"filled up|the disk is full"):
            fetch_all(path, root, quick(hub.url))
        (root / "filler").unlink()
        for file in (root / "checkpoints").glob("*"):
            assert file.read_bytes() == files[file.name]
        fetch_all(path, root, quick(hub.url))
        assert {file.name: file.read_bytes() for file in (root / "checkpoints").iterdir()} == files


@pytest.mark.parametrize("kind", ["ext4", "ext2"])
def test_what_was_placed_survives_a_power_cut(hub: FaultyHub, path: Path, tmp_path: Path, kind: str) -> None:
    with mounted(tmp_path, kind, "128M") as root:
        fetch_all(path, root, quick(hub.url))
        asked = len(hub.requests)
        with after_a_power_cut(tmp_path, kind) as left:
            assert (left / BIG).read_bytes() == FILES["big.safetensors"]
            assert fetch_all(path, left, quick(hub.url)).bytes_fetched == 0
            assert len(hub.requests) == asked
