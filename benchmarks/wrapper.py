"""What the API wrapper costs over talking to the engine directly, and what 200 clients at once do to it.

    python -m benchmarks.wrapper

A stand-in ComfyUI and a wrapper run as processes of their own. One client sends the same small graph by turns
to ComfyUI (submitted, followed on the WebSocket, judged by the history) and to the wrapper, a new seed each
time; then 200 clients at once send jobs. Figures compare within one run; they promise nothing of a GPU.
"""

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from tests.support import free_port

from ltxops.generation.comfyui import ComfyClient

P50_SECONDS, P99_SECONDS = 0.015, 0.060
#: How much the wrapper's memory may grow from the second round of all clients to the last.
GROWTH_BYTES = 16 * 2**20
WARM_UP = 10
LTXOPS = [sys.executable, "-m", "ltxops.cli.main"]

_seeds = itertools.count(1)


@dataclass(frozen=True)
class Bar:
    """One bar and how the wrapper stands to it."""

    text: str
    found: str
    held: bool


@dataclass(frozen=True)
class Crowd:
    """What became of the jobs of many clients: `told_to_wait` counts answers of 503, which are sent again."""

    jobs: int
    completed: int
    kept: int
    told_to_wait: int
    seconds: float
    resident_bytes: list[int]


def graph() -> dict[str, Any]:
    """Return a graph without weights whose result is in no cache."""
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": next(_seeds)},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "benchmark"}},
    }


def percentile(seconds: Sequence[float], share: float) -> float:
    """Return the value that `share` (0 to 1) of the values do not exceed."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def judge(direct: Sequence[float], through: Sequence[float], crowd: Crowd) -> list[Bar]:
    """Hold what was measured against every bar."""
    bars = []
    for name, share, most in (("p50", 0.5, P50_SECONDS), ("p99", 0.99, P99_SECONDS)):
        ours, engine = percentile(through, share), percentile(direct, share)
        found = f"{1000 * (ours - engine):.1f} ms ({1000 * ours:.1f} against {1000 * engine:.1f}, "
        found += f"{ours / engine:.2f} x)"
        text = f"one client: {name} less than {1000 * most:g} ms over the engine alone"
        bars.append(Bar(text, found, ours - engine < most))
    lost = f"{crowd.jobs - crowd.completed} lost, {crowd.jobs - crowd.kept} results not kept"
    bars.append(Bar("many clients: no job is lost", lost, crowd.completed == crowd.kept == crowd.jobs))
    growth = crowd.resident_bytes[-1] - crowd.resident_bytes[1]
    shown = f"{growth / 2**20:+.1f} MiB (now {crowd.resident_bytes[-1] / 2**20:.0f} MiB)"
    text = f"many clients: memory grows by less than {GROWTH_BYTES // 2**20} MiB after the first rounds"
    bars.append(Bar(text, shown, growth < GROWTH_BYTES))
    return bars


async def alternate(engine_url: str, wrapper_url: str, runs: int) -> tuple[list[float], list[float]]:
    """Return how long jobs took directly and through the wrapper, in seconds, by turns."""
    direct: list[float] = []
    through: list[float] = []
    async with ComfyClient(engine_url) as client, aiohttp.ClientSession() as session:
        for _ in range(WARM_UP + runs):
            begun = time.perf_counter()
            execution = await client.run(graph(), deadline_seconds=60)
            direct.append(time.perf_counter() - begun)
            if execution.failure:
                raise SystemExit(f"the engine failed: {execution.failure}")
            begun = time.perf_counter()
            body = {"input": {"workflow_json": graph()}}
            async with session.post(f"{wrapper_url}/generate/sync", json=body) as answer:
                envelope = await answer.json()
            through.append(time.perf_counter() - begun)
            if envelope["status"] != "completed":
                raise SystemExit(f"the wrapper failed: {envelope['message']}")
    return direct[WARM_UP:], through[WARM_UP:]


async def crowd(wrapper_url: str, process: int, clients: int, rounds: int) -> Crowd:
    """Have `clients` send a job each at the same time, `rounds` times."""
    ids = [f"crowd-{number}" for number in range(clients * rounds)]
    completed = told = 0
    resident = [resident_bytes(process)]
    begun = time.perf_counter()
    connector = aiohttp.TCPConnector(limit=clients)
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def one(job_id: str) -> tuple[bool, int]:
            body = {"input": {"request_id": job_id, "workflow_json": graph()}}
            refused = 0
            while True:
                async with session.post(f"{wrapper_url}/generate/sync", json=body) as answer:
                    envelope = await answer.json()
                    if answer.status != 503:
                        return envelope["status"] == "completed", refused
                refused += 1
                await asyncio.sleep(0.5)  # less than Retry-After: the crowd is to be kept up

        for number in range(rounds):
            wanted = ids[number * clients : (number + 1) * clients]
            results = await asyncio.gather(*(one(job_id) for job_id in wanted))
            completed += sum(done for done, _ in results)
            told += sum(refused for _, refused in results)
            resident.append(resident_bytes(process))
        seconds = time.perf_counter() - begun
        kept = 0
        for job_id in ids:
            async with session.get(f"{wrapper_url}/result/{job_id}") as answer:
                envelope = await answer.json()
            kept += await asyncio.to_thread(has_files, envelope)
    return Crowd(len(ids), completed, kept, told, seconds, resident)


def has_files(envelope: dict[str, Any]) -> bool:
    """Say whether an envelope lists files and each of them is there."""
    output = envelope["output"]
    return bool(output) and all(Path(item["local_path"]).is_file() for item in output)


def resident_bytes(process: int) -> int:
    """Return how much memory a process has."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def running(folder: Path, *arguments: object) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command of this project for as long as the block lasts."""
    with (folder / f"{arguments[0]}.log").open("wb") as log:
        process = subprocess.Popen([*LTXOPS, *map(str, arguments)], stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


async def wait_for(url: str, process: "subprocess.Popen[bytes]", seconds: float = 60) -> None:
    """Wait until `url` is answered with 200; exits when the process ends or that takes too long."""
    deadline = time.monotonic() + seconds
    async with aiohttp.ClientSession() as session:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise SystemExit(f"nothing answers at {url}")


async def measure(args: argparse.Namespace, folder: Path) -> list[Bar]:
    """Start both, measure, print what was found, and return the bars."""
    engine_port, port = free_port(), free_port()
    engine_url, wrapper_url = f"http://127.0.0.1:{engine_port}", f"http://127.0.0.1:{port}"
    base = folder / "comfy"
    (base / "output").mkdir(parents=True)
    engine_options = ("--port", engine_port, "--base-directory", base)
    wrapper_options = ("--port", port, "--backend", engine_url, "--output-directory", base / "output")
    state = ("--state", folder / "state")
    with (
        running(folder, "embedded", "comfyui", *engine_options) as engine,
        running(folder, "wrapper", "serve", *wrapper_options, *state) as wrapper,
    ):
        await wait_for(f"{engine_url}/system_stats", engine)
        await wait_for(f"{wrapper_url}/health", wrapper)
        direct, through = await alternate(engine_url, wrapper_url, args.runs)
        many = await crowd(wrapper_url, wrapper.pid, args.clients, args.rounds)
    for name, seconds in (("engine alone", direct), ("through the wrapper", through)):
        p50, p99 = (1000 * percentile(seconds, share) for share in (0.5, 0.99))
        mean = 1000 * statistics.fmean(seconds)
        print(f"{name:20} p50 {p50:6.1f} ms  p99 {p99:6.1f} ms  mean {mean:6.1f} ms  ({len(seconds)} jobs)")
    sizes = ", ".join(f"{size / 2**20:.0f}" for size in many.resident_bytes)
    print(
        f"{args.clients} clients: {many.jobs} jobs in {many.seconds:.1f} s, "
        f"{many.jobs / many.seconds:.0f} a second, {many.told_to_wait} times told to come back; "
        f"memory after each round {sizes} MiB"
    )
    return judge(direct, through, many)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 when every bar held, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.wrapper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=300, help="jobs each way with one client (default: 300)")
    parser.add_argument("--clients", type=int, default=200, help="clients at once (default: 200)")
    parser.add_argument("--rounds", type=int, default=6, help="jobs of each of them (default: 6)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="ltxops-benchmark-") as folder:
        bars = asyncio.run(measure(args, Path(folder)))
    for bar in bars:
        print(f"{'pass' if bar.held else 'MISSED':6} {bar.text}: {bar.found}")
    return 0 if all(bar.held for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
