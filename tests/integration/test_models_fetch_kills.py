"""SIGKILL at any moment: what a rerun has to fetch again, and what it leaves."""

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.faulty_hub import MIB, FaultyHub, Handler, fetch_all, quick, write_manifest
from tests.integration.models_support import clean_environment, command
from tests.support import wait_for

CONNECTIONS = 4
#: What a connection has brought and not recorded is less: 4 MiB, and what it reads at once.
UNRECORDED_BYTES = 5 * MIB

_turn = threading.Lock()


def paced(request: Handler, seconds_each_mib: float, most: int | None = None) -> bool:
    """Serve a range no faster than given, so that there is a middle to be killed in.

    After `most` bytes of all connections, whole MiB, nothing comes any more, and they stay open.
    """
    hub = request.server.hub
    start, end = request.asked or (0, len(request.content))
    request.send_response(206)
    request.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(request.content)}")
    request.send_header("Content-Length", str(end - start))
    request.end_headers()
    for position in range(start, end, MIB):
        with _turn:
            if most is not None and hub.sent >= most:
                break
            request.body(request.content[position : min(end, position + MIB)])
        time.sleep(seconds_each_mib)
    else:
        return True
    request.connection.recv(1)  # until the client hangs up
    request.close_connection = True
    return True


def start_sync(
    path: Path, root: Path, hub: FaultyHub, home: Path, *more: str | Path
) -> "subprocess.Popen[bytes]":
    arguments = ("--manifest", path, "--profile", "all", "--root", root, "--hub", hub.url, "--reserve", "0")
    return subprocess.Popen(
        command("sync", *arguments, "--connections", str(CONNECTIONS), *more),
        env=clean_environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has had so far."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def test_a_kill_costs_one_chunk_a_connection_at_most(tmp_path: Path) -> None:
    # R17
    files = {"big.safetensors": os.urandom(MIB) * 192}
    path, root, progress = write_manifest(tmp_path, files), tmp_path / "models", tmp_path / "progress.json"
    size = len(files["big.safetensors"])
    with FaultyHub(files, cdn_fault=lambda request: paced(request, 0.03, size // 2)) as hub:
        process = start_sync(path, root, hub, tmp_path / "home", "--progress-file", progress)
        wait_for(lambda: progress.exists() and json.loads(progress.read_text())["bytes_done"] == size // 2)
        # Half of it has come, and memory has not grown with it.
        assert hub.sent == size // 2
        assert peak_bytes(process.pid) < 150 * MIB
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (root / "checkpoints").exists()
        hub.cdn_fault = None
        fetch_all(path, root, quick(hub.url), connections=CONNECTIONS)
        assert (root / "checkpoints/big.safetensors").read_bytes() == files["big.safetensors"]
        assert list((root / ".ltxops/incoming").iterdir()) == []
        twice = hub.sent - size
        assert twice < CONNECTIONS * UNRECORDED_BYTES


@pytest.fixture
def seed() -> Iterator[int]:
    value = int(os.environ.get("LTXOPS_SEED", random.randrange(10**6)))
    print(f"LTXOPS_SEED={value}")
    yield value


def test_twenty_kills_at_random_moments_end_in_right_files(tmp_path: Path, seed: int) -> None:
    # R17, R26
    chance = random.Random(seed)
    files = {f"file{number}.safetensors": chance.randbytes(3 * MIB + number) for number in range(8)}
    files |= {"large.safetensors": chance.randbytes(24 * MIB), "twin.safetensors": b""}
    files["twin.safetensors"] = files["file0.safetensors"]
    path, root, home = write_manifest(tmp_path, files), tmp_path / "models", tmp_path / "home"
    placed = root / "checkpoints"
    kills = completed = 0
    with FaultyHub(files, cdn_fault=lambda request: paced(request, 0.02)) as hub:
        while kills < 20:
            process = start_sync(path, root, hub, home)
            time.sleep(chance.uniform(0.15, 0.7))
            process.send_signal(signal.SIGKILL)
            done = process.wait() == 0
            for name in os.listdir(placed) if placed.exists() else []:  # noqa: PTH208
                assert (placed / name).read_bytes() == files[name], f"{name} after kill {kills}"
            kills += not done
            if done:
                # The next kills hit a run that has something to do.
                completed += 1
                for name in chance.sample(sorted(files), 6):
                    (placed / name).unlink()
        assert start_sync(path, root, hub, home).wait() == 0
    print(f"{kills} kills, {completed} runs that were faster")
    assert {path.name: path.read_bytes() for path in placed.iterdir()} == files
    assert list((root / ".ltxops/incoming").iterdir()) == []
