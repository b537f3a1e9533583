"""The ways to a hub: TLS with a site's own authority, and proxies from the environment."""

import base64
import http.client
import os
import select
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.integration.faulty_hub import MIB, FaultyHub, write_manifest
from tests.integration.models_support import ltxops

FILES = {"big.safetensors": os.urandom(20 * MIB + 7), "small.json": b'{"a": 1}\n' * 5}


class Proxy(BaseHTTPRequestHandler):
    """Forwards http requests and opens tunnels; notes what it was asked for and by whom."""

    server: "ProxyServer"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append((self.command, self.path, self.headers.get("Proxy-Authorization", "")))
        parts = urlsplit(self.path)
        upstream = http.client.HTTPConnection(parts.netloc)
        kept = {name: value for name, value in self.headers.items() if not name.startswith("Proxy")}
        upstream.request("GET", f"{parts.path}?{parts.query}", headers=kept)
        answer = upstream.getresponse()
        body = answer.read()
        upstream.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self) -> None:
        self.server.seen.append((self.command, self.path, self.headers.get("Proxy-Authorization", "")))
        host, port = self.path.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as upstream:
            self.send_response(200)
            self.end_headers()
            sides = {self.connection: upstream, upstream: self.connection}
            while True:
                for ready in select.select(list(sides), [], [])[0]:
                    data = ready.recv(64 * 1024)
                    if not data:
                        return
                    sides[ready].sendall(data)


class ProxyServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Proxy)
        self.seen: list[tuple[str, str, str]] = []
        self.url = f"http://user:p%40ss@127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[ProxyServer]:
    server = ProxyServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    key, signed = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", signed),
            *("-days", "2", "-subj", "/CN=hub", "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    signed.write_text(signed.read_text() + key.read_text())
    return signed


def sync(tmp_path: Path, hub: FaultyHub, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the command against `hub`, and check the files when it says that all is well."""
    path, root = write_manifest(tmp_path, FILES), tmp_path / "models"
    arguments = ("--manifest", path, "--profile", "all", "--root", root, "--hub", hub.url, "--reserve", "0")
    unset = {"HTTP_PROXY": "", "http_proxy": "", "HTTPS_PROXY": "", "https_proxy": "", "NO_PROXY": ""}
    result = ltxops("sync", *arguments, home=tmp_path / "home", **(unset | {"no_proxy": ""} | environment))
    if result.returncode == 0:
        for name, content in FILES.items():
            assert (root / "checkpoints" / name).read_bytes() == content
    return result


def test_tls_trusts_the_authorities_it_is_told_of(tmp_path: Path, certificate: Path) -> None:
    with FaultyHub(FILES, certificate=certificate) as hub:
        refused = sync(tmp_path, hub)
        assert refused.returncode == 5
        assert "certificate verify failed" in refused.stderr
        trusted = sync(tmp_path, hub, SSL_CERT_FILE=str(certificate))
        assert trusted.returncode == 0, trusted.stderr


def test_http_goes_through_the_proxy_of_the_environment(tmp_path: Path, proxy: ProxyServer) -> None:
    account = "Basic " + base64.b64encode(b"user:p@ss").decode()
    with FaultyHub(FILES) as hub:
        result = sync(tmp_path, hub, HTTP_PROXY=proxy.url, http_proxy=proxy.url)
        assert result.returncode == 0, result.stderr
        assert {path.split("?")[0] for _, path, _ in proxy.seen} >= {f"{hub.cdn_url}/cdn/big.safetensors"}
        assert {given for _, _, given in proxy.seen} == {account}
        assert len(proxy.seen) == len(hub.requests)
        # The account is for the proxy alone.
        assert not any("Proxy-Authorization" in seen.headers for seen in hub.requests)


def test_https_goes_through_a_tunnel(tmp_path: Path, proxy: ProxyServer, certificate: Path) -> None:
    with FaultyHub(FILES, certificate=certificate) as hub:
        environment = {"HTTPS_PROXY": proxy.url, "https_proxy": proxy.url, "SSL_CERT_FILE": str(certificate)}
        result = sync(tmp_path, hub, **environment)
        assert result.returncode == 0, result.stderr
        targets = {path for command, path, _ in proxy.seen if command == "CONNECT"}
        assert targets == {urlsplit(hub.url).netloc, urlsplit(hub.cdn_url).netloc}


def test_no_proxy_is_honoured(tmp_path: Path, proxy: ProxyServer) -> None:
    with FaultyHub(FILES) as hub:
        result = sync(tmp_path, hub, http_proxy=proxy.url, no_proxy="127.0.0.1")
        assert result.returncode == 0, result.stderr
        assert proxy.seen == []
