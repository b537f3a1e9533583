"""Whatever a request names: nothing connects to an address that it may not call. The server counts."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.integration.delivery_support import PNG, RunningServer, delivering, output, until

from ltxops.wrapper.delivery.addresses import parse_networks
from ltxops.wrapper.delivery.connections import Lookup, SystemLookup, open_session
from ltxops.wrapper.delivery.failures import DeliveryFailed
from ltxops.wrapper.delivery.settings import DeliverySettings
from ltxops.wrapper.schema import S3Settings, WebhookSettings

ENVELOPE = {"status": "completed", "message": "m", "output": [], "timings": {}}


async def picture(request: web.Request) -> web.StreamResponse:
    return web.Response(body=PNG)


@pytest.fixture
def inside() -> Iterator[RunningServer]:
    """A server that only the operator may call."""
    with RunningServer(picture) as server:
        yield server


def answers(*rounds: list[str]) -> Lookup:
    """Return a lookup whose answer changes each time, and stays at the last."""
    left = list(rounds)

    async def lookup(host: str, port: int) -> list[tuple[int, str]]:
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(int(socket.AF_INET), address) for address in found]

    return lookup


def graph(url: str) -> dict[str, Any]:
    return {"1": {"class_type": "LoadImage", "inputs": {"image": url}}}


def s3(endpoint_url: str) -> S3Settings:
    return S3Settings(
        access_key_id="id", secret_access_key="secret", bucket_name="bucket", endpoint_url=endpoint_url
    )


async def call_all(folder: Path, base: str, settings: DeliverySettings, lookup: Lookup | None = None) -> None:
    """Fetch an input from `base`, upload to it and announce to it, whatever comes of it."""
    (folder / "input").mkdir()
    (folder / "a.png").write_bytes(PNG)
    async with delivering(folder, settings, lookup=lookup) as delivery:
        with pytest.raises(DeliveryFailed):
            await delivery.fetch_inputs("job", graph(f"{base}/a.png"), folder / "input")
        items, reason = await delivery.upload("job", [output(folder / "a.png")], s3(base))
        assert items[0].url is None and reason
        await delivery.announce("job", ENVELOPE, WebhookSettings(url=f"{base}/hook"))
        await until(lambda: delivery.counters.webhook_attempts_failed or delivery.counters.webhooks_given_up)
    assert list((folder / "input").rglob("*.*")) == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "127.0.0.1."]
)
def test_no_notation_of_loopback_is_connected_to(
    tmp_path: Path, inside: RunningServer, host: str
) -> None:  # R51
    asyncio.run(call_all(tmp_path, f"http://{host}:{inside.port}", DeliverySettings()))
    assert inside.connections == 0


def test_a_name_that_leads_inside_is_not_connected_to(tmp_path: Path, inside: RunningServer) -> None:  # R51
    lookup = answers(["127.0.0.1"])
    asyncio.run(call_all(tmp_path, f"http://media.example:{inside.port}", DeliverySettings(), lookup))
    assert inside.connections == 0


def test_a_name_that_changes_its_address_is_checked_each_time(
    tmp_path: Path, inside: RunningServer
) -> None:  # R51
    async def main(outside: RunningServer) -> None:
        settings = DeliverySettings(allowed_networks=parse_networks("127.0.0.2/32"))
        lookup = answers(["127.0.0.2"], ["127.0.0.1", "127.0.0.2"], ["127.0.0.1"])
        (tmp_path / "input").mkdir()
        url = f"http://media.example:{inside.port}/a.png"
        async with delivering(tmp_path, settings, lookup=lookup) as delivery:
            await delivery.fetch_inputs("one", graph(url), tmp_path / "input")
            await delivery.fetch_inputs("two", graph(url), tmp_path / "input")
            with pytest.raises(DeliveryFailed, match=r"127\.0\.0\.1 is loopback"):
                await delivery.fetch_inputs("three", graph(url), tmp_path / "input")
        assert outside.connections == 2

    with RunningServer(picture, host="127.0.0.2", port=inside.port) as outside:
        asyncio.run(main(outside))
    assert inside.connections == 0


def test_the_socket_is_checked_even_when_nobody_checked_the_url(inside: RunningServer) -> None:  # R51
    async def main() -> None:
        timeout = aiohttp.ClientTimeout(total=5)
        async with open_session(SystemLookup(), (), timeout, "test") as session:
            with pytest.raises(aiohttp.ClientConnectorError, match="loopback"):
                await session.get(inside.url)

    asyncio.run(main())
    assert inside.connections == 0


def test_a_proxy_of_the_environment_is_not_used(
    tmp_path: Path, inside: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:  # R51
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, inside.url)
    asyncio.run(call_all(tmp_path, "http://127.0.0.1:9", DeliverySettings()))
    lookup = answers(["127.0.0.1"])
    (tmp_path / "second").mkdir()
    asyncio.run(call_all(tmp_path / "second", "https://media.example", DeliverySettings(), lookup))
    assert inside.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_leads_inside(tmp_path: Path, inside: RunningServer, status: int) -> None:  # R51 R52
    async def redirect(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": f"{inside.url}{request.path}"})

    settings = DeliverySettings(allowed_networks=parse_networks("127.0.0.2/32"))
    with RunningServer(redirect, host="127.0.0.2") as outside:
        asyncio.run(call_all(tmp_path, outside.url, settings))
        assert {method for method, *_ in outside.requests} >= {"GET", "PUT", "POST"}
    assert inside.connections == 0


def test_the_operators_own_webhook_and_storage_may_be_inside(tmp_path: Path, inside: RunningServer) -> None:
    async def main() -> None:
        settings = DeliverySettings.from_environment({"WEBHOOK_URL": f"{inside.url}/hook"})
        async with delivering(tmp_path, settings) as delivery:
            await delivery.announce("job", ENVELOPE, None)
            await until(lambda: delivery.counters.webhooks_delivered)

    asyncio.run(main())
    assert [(method, path) for method, path, *_ in inside.requests] == [("POST", "/hook")]
