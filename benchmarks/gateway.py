"""What the gateway costs: latency, the speed of a large download, and idle WebSockets, beside the direct way.

    .venv/bin/python -m benchmarks.gateway [--json] [--size-mib 1024] [--sockets 1000]

Runs a real nginx as the role configures it, before an aiohttp server as ComfyUI is one, all on loopback of
this machine. Wants: latency p50 at most 1 ms more, a download paced at 10 Gbit/s at 90 % of the direct speed
or more, every WebSocket held.
"""

import argparse
import asyncio
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
from aiohttp import web
from tests.ansible.gateway_support import GOOD, Gateway, free_port, running_gateway

REQUESTS = 3000
ROUNDS = 6
DOWNLOADS = 5
PACE_BYTES_PER_SECOND = 10e9 / 8
HOLD_SECONDS = 20.0


def backend(port: int, folder: Path) -> None:
    """Serve what is measured, in a process of its own as ComfyUI is."""

    async def queue(_: web.Request) -> web.Response:
        return web.json_response({"queue_running": [], "queue_pending": []})

    async def view(request: web.Request) -> web.FileResponse:
        return web.FileResponse(folder / request.query["filename"])

    async def socket_(request: web.Request) -> web.WebSocketResponse:
        one = web.WebSocketResponse()
        await one.prepare(request)
        async for message in one:
            await one.send_str(str(message.data))
        return one

    app = web.Application()
    app.add_routes([web.get("/queue", queue), web.get("/view", view), web.get("/ws", socket_)])
    web.run_app(app, host="127.0.0.1", port=port, print=None, backlog=2048)


def request(path: str) -> bytes:
    """One request of HTTP/1.1 with the token."""
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {GOOD['Authorization']}\r\n\r\n".encode()


def latencies(ports: list[int]) -> list[float]:
    """Return the p50 of each port in seconds; the ports take turns, so that a busy moment hits all alike."""
    times: list[list[float]] = [[] for _ in ports]
    for _ in range(ROUNDS):
        # nginx closes a connection after a thousand requests.
        connections = [socket.create_connection(("127.0.0.1", port)) for port in ports]
        for _ in range(REQUESTS // ROUNDS):
            for connection, taken in zip(connections, times, strict=True):
                taken.append(one_request(connection))
        for connection in connections:
            connection.close()
    return [statistics.median(taken) for taken in times]


def one_request(connection: socket.socket) -> float:
    """Return how long one answer takes, in seconds."""
    begun, answer = time.perf_counter(), b""
    connection.sendall(request("/queue"))
    while b"queue_pending" not in answer:
        piece = connection.recv(65536)
        if not piece:
            raise SystemExit(f"the connection was closed after {answer!r}")
        answer += piece
    return time.perf_counter() - begun


def download(port: int, size: int) -> float:
    """Return bytes a second of one download, read no faster than the pace."""
    buffer = memoryview(bytearray(2**20))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request("/view?filename=large.mp4"))
        begun, got = time.perf_counter(), 0
        while got < size:
            count = connection.recv_into(buffer)
            if not count:
                raise SystemExit(f"the download ended after {got} bytes")
            got += count
            ahead = got / PACE_BYTES_PER_SECOND - (time.perf_counter() - begun)
            if ahead > 0.001:
                time.sleep(ahead)
        return got / (time.perf_counter() - begun)


def downloads(ports: list[int], size: int) -> list[float]:
    """Return the median speed of each port, the ports taking turns."""
    speeds: list[list[float]] = [[] for _ in ports]
    for _ in range(DOWNLOADS):
        for port, found in zip(ports, speeds, strict=True):
            found.append(download(port, size))
    return [statistics.median(found) for found in speeds]


async def websockets(port: int, count: int) -> int:
    """Hold `count` idle WebSockets for a while; returns how many still answer then."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=GOOD) as session:
        url = f"ws://127.0.0.1:{port}/ws"
        held = [await session.ws_connect(url) for _ in range(count)]
        await asyncio.sleep(HOLD_SECONDS)

        async def answers(one: "aiohttp.ClientWebSocketResponse[bool]") -> bool:
            await one.send_str("still there")
            return await one.receive_str(timeout=30) == "still there"

        good = sum(await asyncio.gather(*(answers(one) for one in held)))
        await asyncio.gather(*(one.close() for one in held))
        return good


def memory_mib(gateway: Gateway) -> float:
    """Return the memory of nginx's own, all its processes together, in MiB (Pss)."""
    master = int((gateway.folder / "run/nginx.pid").read_text())
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        if int(stat.read_text().rsplit(")", 1)[1].split()[2]) == os.getpgid(master):
            rollup = (stat.parent / "smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def measure(size: int, sockets: int) -> dict[str, object]:
    """Run everything, and return what was measured with what is wanted."""
    with tempfile.TemporaryDirectory(prefix="gateway-") as name:
        folder, port = Path(name), free_port()
        (folder / "files").mkdir()
        with (folder / "files/large.mp4").open("wb") as file:
            file.truncate(size)
        command = [sys.executable, "-m", "benchmarks.gateway", "--backend", str(port), str(folder / "files")]
        server = subprocess.Popen(command)
        try:
            with running_gateway(folder, comfyui_port=port, gateway_requests_per_second=100000) as gateway:
                while socket.socket().connect_ex(("127.0.0.1", port)):
                    time.sleep(0.1)
                direct, through = latencies([port, gateway.port])
                speed, guarded = downloads([port, gateway.port], size)
                held = asyncio.run(websockets(gateway.port, sockets))
                return {
                    "latency_p50_direct_ms": round(direct * 1e3, 3),
                    "latency_p50_added_ms": round((through - direct) * 1e3, 3),
                    "download_direct_mib_s": round(speed / 2**20),
                    "download_ratio": round(guarded / speed, 3),
                    "websockets_held": held,
                    "memory_mib": round(memory_mib(gateway), 1),
                    "ok": through - direct <= 1e-3 and guarded >= 0.9 * speed and held == sockets,
                }
        finally:
            server.terminate()
            server.wait(10)


def main() -> int:
    """Measure, print, and end with 1 where it is not as wanted."""
    parser = argparse.ArgumentParser(description="what the gateway costs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--sockets", type=int, default=1000)
    parser.add_argument("--backend", nargs=2, metavar=("PORT", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if args.backend:
        backend(int(args.backend[0]), Path(args.backend[1]))
        return 0
    found = measure(args.size_mib * 2**20, args.sockets)
    print(json.dumps(found) if args.json else "\n".join(f"{name}: {value}" for name, value in found.items()))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
