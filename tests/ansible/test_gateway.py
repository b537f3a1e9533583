"""The gateway: a real nginx, configured by its role, in front of a backend that notes what reaches it."""

import asyncio
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import aiohttp
import pytest
from aiohttp import web

REPO = Path(__file__).parents[2]
TOKEN = "Test-Token_0123456789.~+/="
GOOD = {"Authorization": f"Bearer {TOKEN}"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Backend:
    """An HTTP server that stands where ComfyUI and the wrapper would, and keeps every request."""

    port: int
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.raw_path, dict(request.headers)))
        if request.headers.get("Upgrade", "").lower() == "websocket":
            socket_ = web.WebSocketResponse()
            await socket_.prepare(request)
            async for message in socket_:
                await socket_.send_str(f"echo {message.data}")
            return socket_
        body = await request.read()
        return web.json_response({"path": request.path, "bytes": len(body)})

    def serve(self) -> None:
        async def run() -> None:
            app = web.Application(client_max_size=64 * 1024**2)
            app.router.add_route("*", "/{tail:.*}", self.answer)
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            await asyncio.Event().wait()

        threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()


@dataclass
class Gateway:
    url: str
    port: int
    folder: Path
    log: Path
    comfyui: Backend
    wrapper: Backend

    def request(self, method: str, path: str, **options: Any) -> tuple[int, bytes, dict[str, str]]:
        async def run() -> tuple[int, bytes, dict[str, str]]:
            async with (
                aiohttp.ClientSession() as session,
                session.request(method, self.url + path, **options) as answer,
            ):
                return answer.status, await answer.read(), dict(answer.headers)

        return asyncio.run(run())

    def raw(self, text: str) -> bytes:
        """Send bytes as they are, for what a client library would not send."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(text.replace("\n", "\r\n").encode())
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
            return answer

    def reached(self) -> list[tuple[str, str, dict[str, str]]]:
        return [*self.comfyui.seen, *self.wrapper.seen]

    def forget(self) -> None:
        self.comfyui.seen.clear()
        self.wrapper.seen.clear()


def render(folder: Path, **variables: Any) -> subprocess.CompletedProcess[str]:
    settings = {
        "ltxops_scope": "user",
        "ltxops_root": str(folder),
        "ansible_remote_tmp": str(folder / "tmp"),
        "ansible_python_interpreter": sys.executable,
        "comfyui_address": "127.0.0.1",
        "wrapper_address": "127.0.0.1",
        "gateway_address": "127.0.0.1",
        "gateway_token": TOKEN,
        "gateway_max_body_mib": 1,
        **variables,
    }
    command = [
        str(Path(sys.executable).parent / "ansible-playbook"),
        "-i",
        "localhost,",
        "tests/ansible/gateway.yml",
        "-e",
        json.dumps(settings),
    ]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(REPO / "ansible.cfg")}
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=120)


def start(folder: Path, output: IO[bytes]) -> "subprocess.Popen[bytes]":
    script = folder / "home/bin/gateway.sh"
    return subprocess.Popen([script], stdout=output, stderr=output, start_new_session=True)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gw")
    comfyui, wrapper, port = Backend(free_port()), Backend(free_port()), free_port()
    rendered = render(folder, comfyui_port=comfyui.port, wrapper_port=wrapper.port, gateway_port=port)
    assert rendered.returncode == 0, rendered.stdout
    comfyui.serve()
    wrapper.serve()
    log = folder / "gateway.log"
    with log.open("wb") as output:
        process = start(folder, output)
    started = Gateway(f"http://127.0.0.1:{port}", port, folder, log, comfyui, wrapper)
    for backend in (port, comfyui.port, wrapper.port):
        wait_for_port(backend, process, log)
    yield started
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(10)


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nothing listens on {port}: {log.read_text()}")


COMFYUI_ROUTES = [
    "/",
    "/prompt",
    "/queue",
    "/history",
    "/history/x",
    "/view?filename=a",
    "/ws",
    "/object_info",
    "/upload/image",
    "/system_stats",
    "/interrupt",
    "/free",
    "/userdata",
    "/manager/reboot",
]
WRAPPER_ROUTES = [
    "/generate",
    "/generate/sync",
    "/result/x",
    "/cancel/x",
    "/queue-info",
    "/health",
    "/docs",
    "/openapi.json",
    "/metrics",
    "/v1/models",
]
BAD = [
    {},
    {"Authorization": "Bearer wrong-wrong-wrong-1"},
    {"Authorization": f"Bearer {TOKEN.lower()}"},
    {"Authorization": f"Bearer {TOKEN}x"},
    {"Authorization": f"Bearer x{TOKEN}"},
    {"Authorization": TOKEN},
    {"Authorization": f"Basic {TOKEN}"},
    {"Authorization": "Bearer"},
]


@pytest.mark.parametrize("headers", BAD, ids=lambda headers: headers.get("Authorization", "none"))
def test_nothing_reaches_a_backend_without_the_token(
    gateway: Gateway, headers: dict[str, str]
) -> None:  # R1 R2
    gateway.forget()
    for path in [*COMFYUI_ROUTES, *(f"/api{route}" for route in COMFYUI_ROUTES), *WRAPPER_ROUTES]:
        for method in ("GET", "POST"):
            status, body, _ = gateway.request(method, path, headers=headers)
            assert (status, json.loads(body)) == (401, {"error": "Unauthorized"}), (method, path)
    assert gateway.reached() == []


@pytest.mark.parametrize(
    "target",
    [
        "//prompt",
        "/%61pi/prompt",
        "/x/..%2fprompt",
        "/API/prompt",
        "/api//prompt",
        "/./prompt",
        "http://127.0.0.1/prompt",
        "/ltxops-error/502",
    ],
)
@pytest.mark.parametrize("host", ["Host: 127.0.0.1\n", "Host: other.example\n", "Host:\n", ""])
def test_odd_targets_and_hosts_are_refused_alike(gateway: Gateway, target: str, host: str) -> None:  # R5 R6
    gateway.forget()
    version = "1.1" if host else "1.0"
    answer = gateway.raw(f"GET {target} HTTP/{version}\n{host}Connection: close\n\n")
    assert answer.split()[1] in (b"401", b"400")
    assert gateway.reached() == []


def test_two_authorization_headers_do_not_pass_with_a_wrong_first_one(gateway: Gateway) -> None:  # R5
    gateway.forget()
    wrong_first = (
        f"GET /queue HTTP/1.1\nHost: x\nConnection: close\nAuthorization: Bearer no\n"
        f"Authorization: Bearer {TOKEN}\n\n"
    )
    assert gateway.raw(wrong_first).split()[1] in (b"401", b"400")
    assert gateway.reached() == []


def test_each_route_reaches_its_backend_without_the_token(gateway: Gateway) -> None:  # R8
    for route in ("/prompt", "/api/queue", "/view?filename=a.mp4&type=output", "/queue", "/"):
        gateway.forget()
        assert gateway.request("GET", route, headers=GOOD)[0] == 200
        assert [path for _, path, _ in gateway.comfyui.seen] == [route]
    for route in WRAPPER_ROUTES:
        gateway.forget()
        assert gateway.request("GET", route, headers=GOOD)[0] == 200
        assert [path for _, path, _ in gateway.wrapper.seen] == [route]
    for method, route in (
        ("GET", "/history?max_items=1"),
        ("GET", "/history/x"),
        ("POST", "/queue"),
        ("POST", "/interrupt"),
    ):
        for prefix in ("", "/api"):
            gateway.forget()
            assert gateway.request(method, prefix + route, headers=GOOD)[0] == 200
            assert [path for _, path, _ in gateway.wrapper.seen] == [f"/compat{route}"]
            assert gateway.comfyui.seen == []
    assert all("Authorization" not in headers for _, _, headers in gateway.reached())


def test_the_scheme_may_be_written_in_any_case(gateway: Gateway) -> None:
    assert gateway.request("GET", "/queue", headers={"Authorization": f"bearer {TOKEN}"})[0] == 200


@pytest.mark.parametrize("path", ["/ws", "/api/ws"])
def test_websockets_need_the_token_and_then_flow(gateway: Gateway, path: str) -> None:  # R4
    async def talk(headers: dict[str, str]) -> list[str]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(gateway.url + path, headers=headers) as ws,
        ):
            heard: list[str] = []
            for word in ("one", "two"):
                await ws.send_str(word)
                heard.append(str(await ws.receive_str(timeout=5)))
            return heard

    gateway.forget()
    with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
        asyncio.run(talk({}))
    assert gateway.reached() == []
    assert asyncio.run(talk(GOOD)) == ["echo one", "echo two"]


@pytest.mark.parametrize(
    "path", ["/manager/reboot", "/customnode/install", "/snapshot/save", "/internal/logs", "/MANAGER/reboot"]
)
@pytest.mark.parametrize("prefix", ["", "/api", "/"])
def test_what_installs_code_is_closed_even_with_the_token(
    gateway: Gateway, path: str, prefix: str
) -> None:  # R9
    gateway.forget()
    status, body, _ = gateway.request("POST", prefix + path, headers=GOOD)
    assert (status, json.loads(body)) == (403, {"error": "Forbidden"})
    assert gateway.reached() == []


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_user_data_can_be_read_but_not_written(gateway: Gateway, prefix: str) -> None:  # R9
    gateway.forget()
    for method in ("POST", "PUT", "DELETE"):
        assert gateway.request(method, f"{prefix}/userdata/x", headers=GOOD)[0] == 403
    assert gateway.reached() == []
    assert gateway.request("GET", f"{prefix}/userdata/x", headers=GOOD)[0] == 200


def test_a_body_that_is_too_large_is_refused_in_json(gateway: Gateway) -> None:  # R14
    gateway.forget()
    status, body, _ = gateway.request(
        "POST", "/upload/image", headers=GOOD, data=io.BytesIO(b"x" * 2 * 1024**2)
    )
    assert status == 413
    assert "1 MiB" in json.loads(body)["error"]
    assert gateway.reached() == []
    assert gateway.request("POST", "/upload/image", headers=GOOD, data=io.BytesIO(b"x" * 1024**2))[0] == 200


def test_a_backend_that_is_down_gives_502_in_json_and_no_secret_in_a_log(
    gateway: Gateway, tmp_path: Path
) -> None:  # R7 R14
    port = free_port()
    nowhere = free_port()
    assert render(tmp_path, comfyui_port=nowhere, wrapper_port=nowhere, gateway_port=port).returncode == 0
    log = tmp_path / "gateway.log"
    with log.open("wb") as output:
        process = start(tmp_path, output)
    wait_for_port(port, process, log)
    lonely = Gateway(f"http://127.0.0.1:{port}", port, tmp_path, log, gateway.comfyui, gateway.wrapper)
    status, body, _ = lonely.request("GET", "/view?token=SECRET-IN-QUERY", headers=GOOD)
    health = lonely.request("GET", "/health", headers=GOOD)
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(10)
    assert (status, health[0]) == (502, 502)
    assert "does not answer" in json.loads(body)["error"]
    written = log.read_text()
    assert '"path":"/view","status":502' in written
    assert "SECRET-IN-QUERY" not in written
    assert TOKEN not in written


def test_the_token_is_in_no_log_and_its_files_are_private(gateway: Gateway) -> None:  # R7 R30
    gateway.request("GET", f"/queue?token={TOKEN}", headers=GOOD)
    assert TOKEN not in gateway.log.read_text()
    holders = [
        path
        for path in gateway.folder.rglob("*")
        if path.is_file() and TOKEN in path.read_text(errors="replace")
    ]
    names = sorted(path.relative_to(gateway.folder).as_posix() for path in holders)
    assert "etc/token" in names
    assert {
        oct(path.stat().st_mode & 0o777) for path in [*holders, gateway.folder / "etc/gateway/tokens.conf"]
    } == {"0o600"}


@pytest.mark.parametrize("token", ["x" * 16, "Ab1._~+/=-" * 51])
def test_a_token_of_any_allowed_length_gives_a_valid_configuration(tmp_path: Path, token: str) -> None:  # R3
    ports = {"comfyui_port": 1, "wrapper_port": 2, "gateway_port": 3}
    assert render(tmp_path, gateway_token=token, **ports).returncode == 0
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    assert nginx
    prefix = tmp_path / "etc/gateway"
    assert subprocess.run([nginx, "-t", "-q", "-p", prefix, "-c", prefix / "nginx.conf"]).returncode == 0


def test_a_second_run_changes_nothing(gateway: Gateway) -> None:  # R47
    again = render(
        gateway.folder,
        comfyui_port=gateway.comfyui.port,
        wrapper_port=gateway.wrapper.port,
        gateway_port=gateway.port,
    )
    assert again.returncode == 0
    assert "changed=0" in again.stdout
    assert TOKEN not in again.stdout + again.stderr
