"""The gateway: a real nginx, configured by its role, in front of a backend that notes what reaches it."""

import asyncio
import io
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from tests.ansible.gateway_support import (
    COMFYUI_ROUTES,
    GOOD,
    TOKEN,
    WRAPPER_ROUTES,
    Gateway,
    free_port,
    render,
    running_gateway,
    start,
    wait_for_port,
)
from tests.support import wait_for


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("gw")) as running:
        yield running


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
    routes = [route for _, route in (*COMFYUI_ROUTES, *WRAPPER_ROUTES)]
    for path in [*routes, *(f"/api{route}" for route in routes)]:
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
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


def test_a_connection_that_was_let_in_is_asked_again(gateway: Gateway) -> None:  # R1
    gateway.forget()
    good = f"GET /queue HTTP/1.1\nHost: x\nAuthorization: Bearer {TOKEN}\n\n"
    answers = gateway.raw(f"{good}GET /prompt HTTP/1.1\nHost: x\nConnection: close\n\n", ends=False)
    assert [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"401"]
    assert [path for _, path, _ in gateway.reached()] == ["/queue"]


def test_a_request_within_a_request_reaches_nothing(gateway: Gateway) -> None:  # R5
    gateway.forget()
    hidden = "0\n\nPOST /interrupt HTTP/1.1\nHost: x\nContent-Length: 0\n\n"
    outer = f"POST /prompt HTTP/1.1\nHost: x\nAuthorization: Bearer {TOKEN}\nTransfer-Encoding: chunked\n"
    answer = gateway.raw(f"{outer}Content-Length: {len(hidden)}\n\n{hidden}")
    assert answer.split()[1] == b"400"
    assert gateway.reached() == []


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
                heard.append(str(await ws.receive_str(timeout=60)))
            return heard

    gateway.forget()
    with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
        asyncio.run(talk({}))
    assert gateway.reached() == []
    assert asyncio.run(talk(GOOD)) == ["echo one", "echo two"]


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
    process.wait(60)
    assert (status, health[0]) == (502, 502)
    assert "does not answer" in json.loads(body)["error"]
    written = log.read_text()
    assert '"path":"/view","status":502' in written
    assert "SECRET-IN-QUERY" not in written
    assert TOKEN not in written


def test_the_token_is_in_no_log_and_its_files_are_private(gateway: Gateway) -> None:  # R7 R30
    gateway.request("GET", f"/object_info/log-me?token={TOKEN}", headers=GOOD)
    wait_for(lambda: "/object_info/log-me" in {entry["path"] for entry in gateway.logged()})
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
