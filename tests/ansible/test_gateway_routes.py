"""Which backend each route reaches, what it gets to see, and that nothing is held up on the way."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from tests.ansible.gateway_support import (
    COMFYUI_ROUTES,
    GOOD,
    TOKEN,
    WRAPPER_ROUTES,
    Backend,
    Gateway,
    running_gateway,
)

from ltxops.timing import in_time

#: What the wrapper answers in ComfyUI's place.
COMPATIBLE = [("GET", "/history"), ("GET", "/history/x"), ("POST", "/interrupt"), ("POST", "/queue")]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("api")) as running:
        yield running


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("full"), gateway_mode="full") as running:
        yield running


def only(gateway: Gateway) -> tuple[Backend, str, dict[str, str]]:
    """The one request that has reached a backend: which, the path, and the headers."""
    ((backend, (_, path, headers)),) = [
        (backend, request) for backend in (gateway.comfyui, gateway.wrapper) for request in backend.seen
    ]
    return backend, path, headers


async def upgrade(url: str, headers: dict[str, str]) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=headers):
        pass


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *COMFYUI_ROUTES,
        *((method, f"/api{path}") for method, path in COMFYUI_ROUTES),
        *WRAPPER_ROUTES,
    ],
)
def test_each_route_reaches_its_backend_without_the_token(
    full: Gateway, method: str, path: str
) -> None:  # R8
    full.forget()
    full.wrapper.go_on.release(2)
    sent = {**GOOD, "X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}
    sent["Host"] = "gateway.example"
    if path.endswith("/ws"):
        asyncio.run(upgrade(full.url + path, sent))
    else:
        full.request(method, path, headers=sent)
    backend, reached, headers = only(full)
    route = path.removeprefix("/api")
    if (method, route) in COMPATIBLE:
        assert (backend, reached) == (full.wrapper, f"/compat{route}")
    else:
        assert (backend, reached) == (
            full.wrapper if (method, path) in WRAPPER_ROUTES else full.comfyui,
            path,
        )
    assert TOKEN not in str(headers)
    assert "Authorization" not in headers
    # What a client says of itself is no longer there either.
    assert (headers["X-Forwarded-For"], headers["X-Forwarded-Proto"]) == ("127.0.0.1", "http")
    assert headers["Host"] == "gateway.example"


@pytest.mark.parametrize(("method", "path"), WRAPPER_ROUTES)
def test_every_route_of_the_wrapper_is_open_by_its_method(api: Gateway, method: str, path: str) -> None:
    api.wrapper.go_on.release(2)
    api.forget()
    assert api.request(method, path, headers=GOOD)[0] == 200
    assert only(api)[0] is api.wrapper
    if "/v1/" not in path:
        api.forget()
        other = "GET" if method == "POST" else "POST"
        assert api.request(other, path, headers=GOOD)[0] == 403
        assert api.request("DELETE", path, headers=GOOD)[0] == 403
        assert api.request(method, f"/api{path}", headers=GOOD)[0] == 403
        assert api.reached() == []


def test_events_arrive_one_by_one(api: Gateway) -> None:
    api.wrapper.go_on = threading.Semaphore(0)

    async def listen() -> list[bytes]:
        heard = []
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{api.url}/generate/stream", headers=GOOD) as answer,
        ):
            while event := await in_time(answer.content.readany(), 15):
                heard.append(event)
                api.wrapper.go_on.release()
        return heard

    assert asyncio.run(listen()) == [b"event: status\n\n", b"event: node\n\n", b"event: result\n\n"]


def test_an_upload_is_passed_on_while_it_arrives(api: Gateway) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        before, deadline = api.comfyui.received, time.monotonic() + 15
        yield b"x" * 65536
        while api.comfyui.received < before + 65536:
            assert time.monotonic() < deadline, "the gateway keeps the first piece to itself"
            await asyncio.sleep(0.05)
        yield b"y" * 65536

    async def send() -> dict[str, object]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{api.url}/upload/image", headers=GOOD, data=pieces()) as answer,
        ):
            told: dict[str, object] = await answer.json()
            return told

    assert asyncio.run(send())["bytes"] == 131072
