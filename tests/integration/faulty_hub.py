"""A hub and its CDN on two ports, in threads, that misbehave on request and count what they send.

The embedded hub is what users run; this one exists for the faults that no good server has.
"""

import hashlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from ltxops.models import manifest
from ltxops.models.hub import Hub
from ltxops.models.limits import Limits
from ltxops.models.lock import load as load_lock
from ltxops.models.progress import Reporter
from ltxops.models.report import Report
from ltxops.models.store import Store
from ltxops.models.sync import sync
from ltxops.models.terminal import Lines

MIB = 1024 * 1024
COMMIT = "a" * 40


class Handler(BaseHTTPRequestHandler):
    """Answers one connection. `asked` is the range that was asked for, None for the whole file."""

    protocol_version = "HTTP/1.1"
    server: "Server"
    asked: tuple[int, int] | None
    name: str
    content: bytes

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        hub, side = self.server.hub, self.server.side
        self.name = self.path.split("?")[0].rsplit("/", 1)[-1]
        self.content = hub.files.get(self.name, b"")
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.asked = (int(match[1]), int(match[2]) + 1) if match else None
        with hub.guard:
            hub.requests.append(Seen(side, self.path, self.asked, dict(self.headers), time.monotonic()))
        fault = hub.hub_fault if side == "hub" else hub.cdn_fault
        try:
            if fault is None or not fault(self):
                self.redirect() if side == "hub" else self.serve()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def redirect(self) -> None:
        """Answer as the hub does for a large file."""
        hub = self.server.hub
        if self.name not in hub.files:
            self.refuse(404, {"X-Error-Code": "EntryNotFound"})
            return
        self.send_response(302)
        self.send_header("Location", f"{hub.cdn_url}/cdn/{self.name}?Signature={hub.signature}")
        self.send_header("X-Linked-Size", str(len(self.content)))
        self.send_header("X-Linked-Etag", f'"{hub.sha256[self.name]}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def serve(self, *, etag: str = "one", cut_after: int | None = None, content: bytes | None = None) -> bool:
        """Answer as a CDN does; with `cut_after`, reset the connection after so many bytes of the body."""
        content = self.content if content is None else content
        start, end = self.asked or (0, len(content))
        end = min(end, len(content))
        self.send_response(206 if self.asked else 200)
        if self.asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self.body(content[start : end if cut_after is None else min(end, start + cut_after)])
        if cut_after is not None and end - start > cut_after:
            self.cut()
        return True

    def body(self, data: bytes) -> None:
        """Send bytes of a body, counted as they leave."""
        for start in range(0, len(data), 64 * 1024):
            piece = data[start : start + 64 * 1024]
            self.wfile.write(piece)
            with self.server.hub.guard:
                self.server.hub.sent += len(piece)

    def refuse(self, status: int, headers: dict[str, str] | None = None) -> bool:
        """Answer with nothing but a status. Like `serve` it returns True, for use as a fault."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return True

    def cut(self) -> None:
        """End the connection here and now."""
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


#: Answers in place of the server and returns True, or returns False to leave it to the server.
Fault = Callable[[Handler], bool]


@dataclass(frozen=True)
class Seen:
    """A request as it came; `when` in seconds of the monotonic clock."""

    side: str
    path: str
    asked: tuple[int, int] | None
    headers: dict[str, str]
    when: float


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, hub: "FaultyHub", side: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = hub
        self.side = side
        scheme = "http"
        if hub.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(hub.certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self.server_address[1]}"
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@dataclass
class FaultyHub:
    """Serves `files` by name as repository o/r; `requests` and `sent` (body bytes) tell what happened."""

    files: dict[str, bytes]
    hub_fault: Fault | None = None
    cdn_fault: Fault | None = None
    signature: str = "first"
    #: Certificate and key in one file: serve https.
    certificate: Path | None = None
    requests: list[Seen] = field(default_factory=list)
    sent: int = 0

    def __post_init__(self) -> None:
        self.guard = threading.Lock()
        self.sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()}

    def __enter__(self) -> "FaultyHub":
        self._servers = [Server(self, "hub"), Server(self, "cdn")]
        self.url, self.cdn_url = (server.url for server in self._servers)
        for server in self._servers:
            server.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
            server.thread.join()

    def asked(self, side: str) -> list[Seen]:
        """Return the requests that one of the two saw."""
        with self.guard:
            return [seen for seen in self.requests if seen.side == side]


def write_manifest(folder: Path, files: dict[str, bytes], dests: dict[str, str] | None = None) -> Path:
    """Write a manifest and its lock for `files` (profile `all`); each goes to checkpoints/ unless told."""
    path = folder / "models.yaml"
    models, locked = ["version: 1", "models:"], ["version: 1", "models:"]
    names = [name.split(".")[0] for name in files]
    for name, model in zip(files, names, strict=True):
        dest = (dests or {}).get(name, "checkpoints/")
        sha256 = hashlib.sha256(files[name]).hexdigest()
        models.append(f"  {model}: {{repo: o/r, file: {name}, dest: {dest}}}")
        locked.append(f"  {model}: {{repo: o/r, revision: {COMMIT}, files: [")
        locked.append(f"    {{path: {name}, size: {len(files[name])}, sha256: {sha256}}}]}}")
    models += ["profiles:", f"  all: {{models: [{', '.join(names)}]}}"]
    path.write_text("\n".join(models) + "\n", encoding="utf-8")
    path.with_name("models.lock.yaml").write_text("\n".join(locked) + "\n", encoding="utf-8")
    return path


def fetch_all(
    manifest_path: Path,
    root: Path,
    hub: Hub,
    *,
    connections: int = 8,
    stall_seconds: float = 5.0,
    reserve_bytes: int = 0,
) -> Report:
    """Sync the profile `all` in this process."""
    wanted = manifest.load(manifest_path)
    return sync(
        Store(root),
        wanted.profile("all"),
        load_lock(wanted),
        hub=lambda: hub,
        reserve_bytes=reserve_bytes,
        jobs=2,
        wait_seconds=0,
        show=Reporter().add(Lines()),
        limits=Limits(connections, stall_seconds),
        still_wanted=wanted.models.values(),
    )


def quick(url: str, token: str | None = None, *, mirrors: tuple[str, ...] = (), attempts: int = 3) -> Hub:
    """Return a hub whose retries follow one another quickly."""
    return Hub(url, token, mirrors=mirrors, attempts=attempts, backoff_seconds=0.01)
