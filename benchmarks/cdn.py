"""A server that stands in for the CDN behind the hub: ranges, keep-alive, links that die, and faults.

Not a real CDN, and it says so. The kernel copies files to sockets (sendfile), so that it costs little beside
the client that is measured. Pace is per connection and kept by the kernel (SO_MAX_PACING_RATE): a limit per
request would flatter a client that asks in small pieces.
"""

import argparse
import os
import re
import signal
import socket
import struct
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from benchmarks.line import Line

NAME = "benchmark CDN (stand-in)"

#: What can go wrong, by name. The first two are lies about the content; from the others a client can recover.
FAULTS = {
    "flip": "one byte of the file is wrong, always",
    "short": "the CDN has fewer bytes than the hub promises, always",
    "reset": "the first two answers of a file are reset on the way",
    "503": "the first two requests of a file are answered with 503 and Retry-After: 1",
    "expired": "each link dies in the middle of the file; the hub gives new ones",
    "ignored-range": "every answer is the whole file, whatever range was asked for",
    "stall": "the first answer of a file stops on the way, and its connection stays open",
}
LIES = ("flip", "short")

_SO_MAX_PACING_RATE = 47  # of asm-generic/socket.h; the module socket does not name it
_SLICE_BYTES = 1024 * 1024
_BREAK_BYTES = 512 * 1024
_TIMES = 2
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True)
class Behaviour:
    """How the CDN serves: bytes a second and bytes in all for each connection (0: no limit), and a fault.

    `line_bytes` are the bytes a second that all connections share.
    """

    pace_bytes: int = 0
    cut_bytes: int = 0
    fault: str = ""
    line_bytes: int = 0


def wanted_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return (first byte, end) of a single range, the whole file without one, None beyond its end."""
    match = _RANGE.fullmatch(header or "")
    if match is None or match[0] == "bytes=-":
        return 0, size
    if not match[1]:
        return max(0, size - int(match[2])), size
    start, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    return (start, end) if start < end else None


class Cdn(ThreadingHTTPServer):
    """Serves ROOT/OWNER/NAME/PATH as /cdn/OWNER/NAME/COMMIT/PATH, each connection in a thread of its own."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, root: Path, port: int, behaviour: Behaviour) -> None:
        super().__init__(("127.0.0.1", port), Connection)
        self.root = root.resolve()
        self.behaviour = behaviour
        self.line = Line(behaviour.line_bytes)
        self._guard = threading.Lock()
        self._faults: Counter[str] = Counter()
        self._served: Counter[str] = Counter()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def find(self, path: str) -> Path | None:
        """Return the file that a path of a URL names."""
        match = re.fullmatch(r"/cdn/([^/]+/[^/]+)/[^/]+/(.+)", unquote(path))
        if match is None:
            return None
        file = (self.root / match[1] / match[2]).resolve()
        return file if file.is_relative_to(self.root) and file.is_file() else None

    def is_turn(self, path: str, times: int) -> bool:
        """Tell whether the fault still has to happen to this file, and count that it did."""
        with self._guard:
            self._faults[path] += 1
            return self._faults[path] <= times

    def take(self, link: str, count: int, size: int) -> int:
        """Return how many of `count` bytes a link still serves; a third of its file, then it is dead."""
        with self._guard:
            allowed = max(0, min(count, max(size // 3, _SLICE_BYTES) - self._served[link]))
            self._served[link] += allowed
            return allowed

    def is_dead(self, link: str, size: int) -> bool:
        """Tell whether a link has served all that it ever will."""
        with self._guard:
            return self._served[link] >= max(size // 3, _SLICE_BYTES)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that hung up: clients are killed and time out here on purpose."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Connection(BaseHTTPRequestHandler):
    """One connection of a client."""

    server: Cdn
    protocol_version = "HTTP/1.1"
    server_version = "benchmark-CDN-stand-in"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        """Take the connection and set its pace."""
        super().setup()
        self._sent = 0
        if pace := self.server.behaviour.pace_bytes:
            self.connection.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, pace)

    def do_HEAD(self) -> None:
        """Answer with the headers alone."""
        self._answer(body=False)

    def do_GET(self) -> None:
        """Answer with a file or a range of it."""
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: it would cost time."""

    def _answer(self, *, body: bool) -> None:
        fault, path = self.server.behaviour.fault, urlsplit(self.path).path
        file = self.server.find(path)
        if file is None:
            return self._refuse(404)
        if fault == "503" and self.server.is_turn(path, _TIMES):
            return self._refuse(503, {"Retry-After": "1"})
        real = file.stat().st_size
        if fault == "expired" and self.server.is_dead(self.path, real):
            return self._refuse(403)
        size = real - real // 8 - 1 if fault == "short" else real
        asked = None if fault == "ignored-range" else self.headers.get("Range")
        span = wanted_range(asked, size)
        if span is None:
            return self._refuse(416, {"Content-Range": f"bytes */{size}"})
        self._head(file, span, size, partial=asked is not None)
        if body:
            self._body(file, span, size)

    def _refuse(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _head(self, file: Path, span: tuple[int, int], size: int, *, partial: bool) -> None:
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {span[0]}-{span[1] - 1}/{size}")
        self.send_header("Content-Length", str(span[1] - span[0]))
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{file.stat().st_mtime_ns:x}-{size:x}"')
        self.send_header("Last-Modified", formatdate(file.stat().st_mtime, usegmt=True))
        self.end_headers()

    def _body(self, file: Path, span: tuple[int, int], size: int) -> None:
        start, end = span
        with file.open("rb", buffering=0) as stream:
            if self._send(stream.fileno(), start, self._stop(start, end, size), size) == end:
                return
        self.close_connection = True
        fault = self.server.behaviour.fault
        if fault == "stall":
            # Until the client hangs up: nothing more comes on this connection.
            self.connection.recv(1)
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # Closed here, because the base class would end it in an orderly way first.
            os.close(self.connection.detach())

    def _stop(self, start: int, end: int, size: int) -> int:
        """Return where the answer is to break off: `end`, or earlier."""
        behaviour = self.server.behaviour
        if behaviour.cut_bytes:
            end = min(end, start + behaviour.cut_bytes - self._sent)
        times = {"reset": _TIMES, "stall": 1}.get(behaviour.fault, 0)
        if times and end - start > 1 and self.server.is_turn(urlsplit(self.path).path, times):
            # Early, because a client that splits a file gives up its first answer once others have begun.
            end = start + min((end - start) // 2, _BREAK_BYTES)
        return end

    def _send(self, descriptor: int, start: int, stop: int, size: int) -> int:
        """Send a part of a file; return where that ended, which is before `stop` when the link died."""
        fault = self.server.behaviour.fault
        flipped = size // 2 if fault == "flip" else -1
        while start < stop:
            if start == flipped:
                self.connection.sendall(bytes([os.pread(descriptor, 1, start)[0] ^ 1]))
                start += 1
                continue
            count = min(_SLICE_BYTES, stop - start)
            if start < flipped:
                count = min(count, flipped - start)
            if fault == "expired" and not (count := self.server.take(self.path, count, size)):
                break
            count = self.server.line.turn(count)
            sent = os.sendfile(self.connection.fileno(), descriptor, start, count)
            start += sent
            self._sent += sent
        return start


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pace-bytes", type=int, default=0)
    parser.add_argument("--cut-bytes", type=int, default=0)
    parser.add_argument("--fault", choices=FAULTS, default="")
    parser.add_argument("--line-bytes", type=int, default=0)
    args = parser.parse_args()
    server = Cdn(
        args.root, args.port, Behaviour(args.pace_bytes, args.cut_bytes, args.fault, args.line_bytes)
    )
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: sys.exit(0))
    print(f"{NAME}: {server.url}", flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
