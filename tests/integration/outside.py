"""A host as others see it: requests through its gateway, and a scan from another network."""

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltxops.upkeep.doctor.sockets import parse

#: Tries every port that it is given, as JSON on stdin, and prints those that take a connection.
SCAN = """
import asyncio, json, sys
async def is_open(port):
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(sys.argv[1], port), 20)
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    return True
async def main(ports):
    return [port for port, found in zip(ports, await asyncio.gather(*map(is_open, ports))) if found]
print(json.dumps(asyncio.run(main(json.load(sys.stdin)))))
"""


@dataclass
class Door:
    """The gateway of a host."""

    port: int
    token: str

    @property
    def good(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def request(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, named, answer.read()
        finally:
            connection.close()

    def raw(self, text: str) -> bytes:
        """Send bytes as they are, for what a client library would not send."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(text.replace("\n", "\r\n").encode())
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
            return answer

    def upload(self, path: Path) -> dict[str, Any]:
        """Send a file as a browser's form does."""
        command = ["curl", "-sS", "-H", f"Authorization: {self.good['Authorization']}"]
        command += ["-F", f"image=@{path}", f"http://127.0.0.1:{self.port}/upload/image"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        told: dict[str, Any] = json.loads(done.stdout)
        return told


@contextmanager
def another_network() -> Iterator[tuple[int, str]]:
    """A network namespace with a way to this machine: the pid of who holds it, and our address as seen there.

    It ends with the block, and its link with it.
    """
    name, place = f"scan{os.getpid()}", 4 * (os.getpid() % 2**15)
    here, there = (f"198.{18 + it // 65536}.{it // 256 % 256}.{it % 256}" for it in (place + 1, place + 2))
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo made; read line"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert holder.stdin and holder.stdout
    try:
        assert holder.stdout.readline() == b"made\n"
        inside = ["nsenter", "--net", "--target", str(holder.pid)]
        for command in (
            ["ip", "link", "add", name, "type", "veth", "peer", "name", "out", "netns", str(holder.pid)],
            ["ip", "address", "add", f"{here}/30", "dev", name],
            ["ip", "link", "set", name, "up"],
            [*inside, "ip", "address", "add", f"{there}/30", "dev", "out"],
            [*inside, "ip", "link", "set", "out", "up"],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=30)
        yield holder.pid, here
    finally:
        holder.stdin.close()
        holder.wait(10)
        holder.stdout.close()


def scan(ports: set[int]) -> set[int]:
    """Return which of these ports of this machine take a connection from another network."""
    with another_network() as (holder, address):
        command = ["nsenter", "--net", "--target", str(holder), sys.executable, "-c", SCAN, address]
        done = subprocess.run(
            command, input=json.dumps(sorted(ports)), capture_output=True, text=True, timeout=120, check=True
        )
    return set(json.loads(done.stdout))


def listening(pid_namespace: str) -> tuple[set[int], set[int]]:
    """Return the ports that anybody listens on, and those of processes in this namespace of process ids."""
    inodes = set()
    for process in Path("/proc").glob("[0-9]*"):
        # A process may end, or close a file, while it is looked at.
        with suppress(OSError):
            if str((process / "ns/pid").readlink()) == pid_namespace:
                for descriptor in (process / "fd").iterdir():
                    with suppress(OSError):
                        inodes.add(str(descriptor.readlink()))
    tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
    found = [listener for table in tables for listener in parse(table)]
    ours = {listener.port for listener in found if f"socket:[{listener.inode}]" in inodes}
    return {listener.port for listener in found}, ours
