"""What the gateway lets through once the token is right: paths by mode, odd requests, downloads, limits."""

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from tests.ansible.gateway_support import GOOD, TOKEN, Gateway, render, running_gateway
from tests.support import wait_for

#: What installs code or changes the inside of the host.
DANGEROUS = ["manager/reboot", "customnode/install", "snapshot/save", "internal/logs", "comfyui_manager/x"]
#: The calls of a client, by method and path.
CLIENT_CALLS = [
    ("POST", "prompt"),
    ("GET", "queue"),
    ("POST", "queue"),
    ("GET", "history/8923875e-b7e0-4b54-b594-f34924c9888b"),
    ("GET", "history?max_items=5"),
    ("POST", "interrupt"),
    ("POST", "free"),
    ("GET", "object_info"),
    ("GET", "object_info/Load%20Image"),
    ("GET", "system_stats"),
    ("POST", "upload/image"),
    ("GET", "models/checkpoints"),
]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("api")
    with running_gateway(folder) as running:
        (folder / "files").mkdir()
        yield running


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("full"), gateway_mode="full") as running:
        yield running


@pytest.mark.parametrize("prefix", ["/", "/api/"])
def test_what_clients_call_passes(api: Gateway, prefix: str) -> None:
    api.forget()
    for method, path in CLIENT_CALLS:
        assert api.request(method, prefix + path, headers=GOOD)[0] == 200, (method, path)
    assert len(api.reached()) == len(CLIENT_CALLS)


@pytest.mark.parametrize("path", [*DANGEROUS, "v2/manager/reboot", "MANAGER/reboot", "%6danager/reboot"])
@pytest.mark.parametrize("prefix", ["/", "/api/", "//", "/api//", "/x/../", "/queue/..%2f"])
def test_what_installs_code_is_closed_in_both_modes(
    api: Gateway, full: Gateway, path: str, prefix: str
) -> None:  # R9
    for gateway in (api, full):
        gateway.forget()
        answer = gateway.raw(
            f"POST {prefix}{path} HTTP/1.1\nHost: x\nAuthorization: Bearer {TOKEN}\n"
            "Content-Length: 0\nConnection: close\n\n"
        )
        assert answer.split()[1] in (b"400", b"403"), answer
        assert gateway.reached() == []


@pytest.mark.parametrize("path", ["", "extensions/core/x.js", "userdata/x", "settings", "users", "queue/x"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_api_mode_is_closed_to_all_it_does_not_list(api: Gateway, method: str, path: str) -> None:
    api.forget()
    status, body, _ = api.request(method, f"/{path}", headers=GOOD)
    assert (status, json.loads(body)) == (403, {"error": "Forbidden"})
    assert api.request("DELETE", "/prompt", headers=GOOD)[0] == 403
    assert api.reached() == []


def test_the_full_mode_serves_the_browser_but_writes_no_user_data(full: Gateway) -> None:  # R9
    for path in ("/", "/assets/index.js", "/api/settings", "/api/userdata/workflows%2Fmine.json"):
        assert full.request("GET", path, headers=GOOD)[0] == 200, path
    full.forget()
    for prefix in ("", "/api", "/v2"):
        for method in ("POST", "PUT", "DELETE"):
            assert full.request(method, f"{prefix}/userdata/x.json", headers=GOOD)[0] == 403
    assert full.reached() == []


def test_an_operator_opens_what_is_needed(tmp_path: Path) -> None:  # R9
    with running_gateway(tmp_path, gateway_open_paths=["/userdata", "/manager/queue"]) as gateway:
        assert gateway.request("POST", "/api/userdata/x.json", headers=GOOD)[0] == 200
        assert gateway.request("GET", "/manager/queue/status", headers=GOOD)[0] == 200
        assert gateway.request("GET", "/manager/reboot", headers=GOOD)[0] == 403
        assert gateway.request("GET", "/manager/queues", headers=GOOD)[0] == 403


@pytest.mark.parametrize("path", ['/x"; }', "/x$uri"])
def test_an_open_path_that_nginx_would_misread_is_refused(tmp_path: Path, path: str) -> None:
    ports = {"comfyui_port": 1, "wrapper_port": 2, "gateway_port": 3}
    refused = render(tmp_path, gateway_open_paths=[path], **ports)
    assert refused.returncode != 0
    assert "ltxops exit 2" in refused.stdout
    assert not (tmp_path / "etc/gateway/nginx.conf").exists()


@pytest.mark.parametrize(
    "query",
    [
        "filename=..%2f..%2fetc%2fpasswd",
        "filename=../../etc/passwd&type=output",
        "filename=x&subfolder=..",
        "filename=x&subfolder=a/%2e%2e/%2E%2e",
        "filename=x&subfolder=a\\..\\b",
        "filename=/etc/passwd",
        "filename=x&subfolder=%2Fetc",
    ],
)
def test_steps_out_of_the_output_folder_are_refused(api: Gateway, query: str) -> None:  # R12
    api.forget()
    answer = api.raw(
        f"GET /view?{query} HTTP/1.1\nHost: x\nAuthorization: Bearer {TOKEN}\nConnection: close\n\n"
    )
    assert answer.split()[1] == b"400"
    assert api.reached() == []


@pytest.mark.parametrize("origin", ["null", "https://evil.example", "http://127.0.0.1.evil.example"])
@pytest.mark.parametrize("path", ["/prompt", "/ws"])
def test_pages_of_other_hosts_are_refused(api: Gateway, origin: str, path: str) -> None:  # R12
    api.forget()
    status, body, _ = api.request("GET", path, headers={**GOOD, "Origin": origin})
    assert status == 403
    assert "another host" in json.loads(body)["error"]
    assert api.reached() == []
    assert api.request("GET", "/prompt", headers={**GOOD, "Origin": api.url})[0] == 200


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("clip.mp4", 'filename="clip.mp4"'),
        ("still.png", 'filename="still.png"'),
        ("page.html", 'attachment; filename="page.html"'),
        ("drawing.svg", 'attachment; filename="drawing.svg"'),
        ("code.js", 'attachment; filename="code.js"'),
        ("unknown.xyz", 'attachment; filename="unknown.xyz"'),
    ],
)
def test_only_media_are_shown_in_place(api: Gateway, name: str, disposition: str) -> None:  # R10
    (api.comfyui.files / name).write_bytes(b"<script>")
    status, _, headers = api.request("GET", f"/api/view?filename={name}", headers=GOOD)
    assert (status, headers["Content-Disposition"]) == (200, disposition)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers


def test_ranges_and_large_downloads_arrive_whole_and_lie_nowhere(api: Gateway) -> None:
    content = bytes(range(256)) * 4 * 64 * 1024
    (api.comfyui.files / "long.mp4").write_bytes(content)
    part = {**GOOD, "Range": "bytes=1000000-1000999"}
    status, body, headers = api.request("GET", "/view?filename=long.mp4", headers=part)
    assert (status, body) == (206, content[1000000:1001000])
    assert headers["Content-Range"] == f"bytes 1000000-1000999/{len(content)}"
    assert api.request("GET", "/view?filename=long.mp4", headers=GOOD)[1] == content
    state = api.folder / "state/gateway"
    assert [path for path in state.rglob("*") if path.is_file()] == []


def test_an_upload_that_grows_too_large_is_cut_off(api: Gateway) -> None:  # R14
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 65536

    async def send() -> tuple[int, bytes]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{api.url}/upload/image", headers=GOOD, data=endless()) as answer,
        ):
            return answer.status, await answer.read()

    status, body = asyncio.run(send())
    assert status == 413
    assert "an upload may have 1 MiB" in json.loads(body)["error"]


def test_a_body_that_is_no_upload_has_a_smaller_limit(tmp_path: Path) -> None:
    with running_gateway(tmp_path, gateway_max_body_mib=3, gateway_max_json_mib=1) as gateway:

        def post(path: str) -> int:
            return gateway.request("POST", path, headers=GOOD, data=io.BytesIO(b"x" * 2 * 1024**2))[0]

        assert (post("/prompt"), post("/generate")) == (413, 413)
        assert gateway.reached() == []
        assert post("/api/upload/image") == 200


def test_one_address_may_not_flood(tmp_path: Path) -> None:
    with running_gateway(tmp_path, gateway_requests_per_second=2) as gateway:
        answers = [gateway.request("GET", "/queue", headers=GOOD) for _ in range(60)]
        refused = [json.loads(body) for status, body, _ in answers if status == 429]
        assert 1 <= len(gateway.comfyui.seen) == 60 - len(refused) < 60
        assert refused[0] == {"error": "Too many requests: at most 2 a second from one address"}
        time.sleep(1.5)
        assert gateway.request("GET", "/queue", headers=GOOD)[0] == 200


def test_a_websocket_outlives_the_time_that_an_answer_may_take(tmp_path: Path) -> None:  # R4
    async def talk(url: str) -> list[str]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{url}/ws", headers=GOOD) as ws,
        ):
            heard = []
            for word in ("one", "two"):
                await asyncio.sleep(2.5)
                await ws.send_str(word)
                heard.append(str(await ws.receive_str(timeout=60)))
            return heard

    with running_gateway(tmp_path, gateway_read_timeout_seconds=1) as gateway:
        assert asyncio.run(talk(gateway.url)) == ["echo one", "echo two"]


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("GET /queue HTTP/1.1\nHost: x\nAuthorization: Bearer {token}\nX-Long: {long}\n\n", b"400"),
        ("GET /{long} HTTP/1.1\nHost: x\nAuthorization: Bearer {token}\n\n", b"400"),
        ("NONSENSE\n\n", b"400"),
        ("GET /queue HTTP/1.1\nHost: a b\nAuthorization: Bearer {token}\n\n", b"400"),
    ],
)
def test_every_refusal_is_json(api: Gateway, request_text: str, status: bytes) -> None:
    api.forget()
    answer = api.raw(request_text.format(token=TOKEN, long="x" * 40000))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == status
    assert b"application/json" in head
    assert isinstance(json.loads(body)["error"], str)
    assert api.reached() == []


def test_the_access_log_is_json_with_the_tokens_name(api: Gateway) -> None:  # R7
    api.request("GET", '/view?filename=log-me.mp4&token=SECRET"', headers=GOOD)
    api.request("GET", "/queue", headers={"Authorization": "Bearer a-guess-of-somebody"})
    expected = {("/view", "host", 404), ("/queue", "", 401)}
    wait_for(lambda: expected <= {(it["path"], it["token"], it["status"]) for it in api.logged()})
    written = api.log.read_text()
    assert "SECRET" not in written
    assert "a-guess" not in written
    assert TOKEN not in written
