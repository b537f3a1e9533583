"""Events reach their receivers: signed, again under one id until taken, and through a kill of the process."""

import asyncio
import base64
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook
from tests.integration.delivery_support import (
    LOOPBACK,
    RunningServer,
    delivering,
    hang,
    reserved_port,
    until,
)
from tests.support import wait_for

from ltxops.errors import CheckFailed
from ltxops.wrapper.delivery.outbox import pending
from ltxops.wrapper.delivery.service import Delivery
from ltxops.wrapper.delivery.settings import DeliverySettings
from ltxops.wrapper.delivery.signing import parse_secrets
from ltxops.wrapper.schema import WebhookSettings

SECRET = "whsec_" + base64.b64encode(os.urandom(32)).decode()
ENVELOPE = {
    "id": "job",
    "status": "completed",
    "message": "Processing complete.",
    "comfyui_response": {"large": "and not sent"},
    "output": [{"filename": "a.mp4", "url": "https://s3.example/a.mp4?X-Amz-Signature=feed"}],
    "timings": {"total": 12.5},
}


class Receiver:
    """Answers with the statuses of a list, the last one for ever."""

    def __init__(self, *statuses: int, **headers: str) -> None:
        self._statuses = list(statuses)
        self._headers = headers

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Answer a call."""
        status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        return web.Response(status=status, headers={k.replace("_", "-"): v for k, v in self._headers.items()})


def settings(**changes: Any) -> DeliverySettings:
    defaults: dict[str, Any] = {
        "allowed_networks": LOOPBACK,
        "webhook_secrets": parse_secrets(SECRET),
        "webhook_retry_seconds": (0.05, 0.1, 0.1),
        "webhook_timeout_seconds": 60.0,
    }
    return DeliverySettings(**{**defaults, **changes})


def hook(server: RunningServer, path: str = "/hook", **extra_params: Any) -> WebhookSettings:
    return WebhookSettings(url=server.url + path, extra_params=extra_params or None)


def test_an_event_is_signed_and_has_what_a_receiver_needs(tmp_path: Path) -> None:  # R53
    async def main() -> None:
        async with delivering(tmp_path, settings()) as delivery:
            await delivery.announce("job", ENVELOPE, hook(server, "/hook?a=b", user=7, status="mine"))
            await until(lambda: delivery.counters.webhooks_delivered)

    with RunningServer(Receiver(204)) as server:
        asyncio.run(main())
        [(method, path, headers, body)] = server.requests
    assert (method, path, headers["content-type"]) == ("POST", "/hook?a=b", "application/json")
    assert Webhook(SECRET).verify(body, headers) == {
        "id": "job",
        "status": "completed",
        "message": "Processing complete.",
        "output": ENVELOPE["output"],
        "timings": {"total": 12.5},
        "extra_params": {"user": 7, "status": "mine"},
    }
    assert headers["user-agent"].startswith("ltxops/")
    assert pending(tmp_path / "outbox.sqlite3") == set()


def test_without_a_secret_an_event_is_not_signed(tmp_path: Path) -> None:
    async def main() -> None:
        async with delivering(tmp_path, settings(webhook_secrets=())) as delivery:
            await delivery.announce("job", ENVELOPE, hook(server))
            await until(lambda: delivery.counters.webhooks_delivered)

    with RunningServer(Receiver(200)) as server:
        asyncio.run(main())
        headers = server.requests[0][2]
    assert "webhook-signature" not in headers and headers["webhook-id"].startswith("msg_")


def test_the_hosts_webhook_is_called_when_the_request_names_none(tmp_path: Path) -> None:
    async def main() -> None:
        configured = settings(webhook_url=f"{server.url}/host", allowed_networks=())
        async with delivering(tmp_path, configured) as delivery:
            await delivery.announce("plain", ENVELOPE, None)
            await delivery.announce("with-params", ENVELOPE, WebhookSettings(extra_params={"user": 7}))
            await until(lambda: delivery.counters.webhooks_delivered == 2)
        async with delivering(tmp_path, settings()) as delivery:
            await delivery.announce("nobody", ENVELOPE, WebhookSettings(extra_params={"user": 7}))
            assert delivery.counters.webhooks_announced == 0

    with RunningServer(Receiver(200)) as server:
        asyncio.run(main())
        told = {
            body["id"]: body["extra_params"] for body in (json.loads(seen[3]) for seen in server.requests)
        }
    assert told == {"plain": {}, "with-params": {"user": 7}}


def test_a_retry_keeps_its_id_and_verifies(tmp_path: Path) -> None:  # R53
    async def main() -> None:
        async with delivering(tmp_path, settings()) as delivery:
            await delivery.announce("job", ENVELOPE, hook(server))
            await until(lambda: delivery.counters.webhooks_delivered)
            assert delivery.counters.webhook_attempts_failed == 2

    with RunningServer(Receiver(500, 404, 200)) as server:
        asyncio.run(main())
        assert len(server.requests) == 3
        assert len({headers["webhook-id"] for _, _, headers, _ in server.requests}) == 1
        assert len({body for *_, body in server.requests}) == 1
        for _, _, headers, body in server.requests:
            Webhook(SECRET).verify(body, headers)


@pytest.mark.parametrize(
    ("status", "calls"),
    [(410, 1), (301, 4), (307, 4), (500, 4)],  # R52 R53
)
def test_it_is_given_up_at_once_when_gone_and_else_at_the_end_of_the_schedule(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int, calls: int
) -> None:
    caplog.set_level(logging.DEBUG, "ltxops")

    async def main() -> None:
        async with delivering(tmp_path, settings()) as delivery:
            await delivery.announce("job", ENVELOPE, hook(server, "/secret-path?key=secret"))
            await until(lambda: delivery.counters.webhooks_given_up)

    with (
        RunningServer(Receiver(200)) as elsewhere,
        RunningServer(Receiver(status, Location=f"{elsewhere.url}/")) as server,
    ):
        asyncio.run(main())
        assert len(server.requests) == calls and elsewhere.connections == 0
    assert pending(tmp_path / "outbox.sqlite3") == set()
    assert "given up" in caplog.text and "secret" not in caplog.text


def test_a_receiver_that_asks_for_time_gets_it(tmp_path: Path) -> None:
    async def main() -> float:
        async with delivering(tmp_path, settings()) as delivery:
            begun = time.monotonic()
            await delivery.announce("job", ENVELOPE, hook(server))
            await until(lambda: delivery.counters.webhooks_delivered)
            return time.monotonic() - begun

    with RunningServer(Receiver(503, 200, Retry_After="1")) as server:
        assert asyncio.run(main()) > 0.9


def test_a_receiver_that_hangs_is_cut_off_and_holds_nobody_up(tmp_path: Path) -> None:  # R54
    async def main() -> None:
        async with delivering(tmp_path, settings(webhook_timeout_seconds=3600.0)) as delivery:
            for number in range(40):
                await delivery.announce(f"hung-{number}", ENVELOPE, hook(hung))
            await until(lambda: hung.connections == 2)
            for number in range(10):
                await delivery.announce(f"good-{number}", ENVELOPE, hook(good))
            await until(lambda: delivery.counters.webhooks_delivered == 10)
            assert delivery.counters.webhook_attempts_failed == 0, "the others are still hung"
            assert hung.connections == 2
        hasty = settings(webhook_timeout_seconds=0.2, webhook_retry_seconds=(3600.0,))
        async with delivering(tmp_path, hasty) as delivery:
            await until(lambda: delivery.counters.webhook_attempts_failed >= 4)
            # Those of before, those that were cut off, and again two at once.
            assert hung.connections <= 2 + delivery.counters.webhook_attempts_failed + 2

    with RunningServer(hang) as hung, RunningServer(Receiver(200)) as good:
        asyncio.run(main())


def test_an_endless_answer_is_not_read(tmp_path: Path) -> None:
    sent: list[int] = []

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while len(sent) < 2000:
                await response.write(b"x" * 65_536)
                sent.append(1)
        except ConnectionError:
            pass
        return response

    async def main() -> None:
        async with delivering(tmp_path, settings()) as delivery:
            await delivery.announce("job", ENVELOPE, hook(server))
            await until(lambda: delivery.counters.webhooks_delivered)

    with RunningServer(endless) as server:
        asyncio.run(main())
    assert len(sent) < 400


SENDER = textwrap.dedent("""
    import asyncio, sys
    from pathlib import Path
    from tests.integration.delivery_support import delivering
    from tests.integration.test_delivery_webhooks import ENVELOPE, settings
    from ltxops.wrapper.schema import WebhookSettings
    async def main():
        patient = settings(webhook_retry_seconds=(0.1,) * 6000)
        async with delivering(Path(sys.argv[1]), patient) as delivery:
            await delivery.announce("job", ENVELOPE, WebhookSettings(url=sys.argv[2]))
            print("announced", flush=True)
            await asyncio.sleep(600)
    asyncio.run(main())
""")


def killed_after_announcing(folder: Path, url: str, moment: Callable[[], object] = lambda: True) -> None:
    """Run a process that announces, and kill it when it has said so and `moment` has come."""
    process = subprocess.Popen([sys.executable, "-c", SENDER, folder, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "announced\n"
    wait_for(moment)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


async def deliver_what_is_left(folder: Path) -> None:
    async with delivering(folder, settings()) as delivery:
        await until(lambda: delivery.counters.webhooks_delivered)


def test_an_announced_event_survives_a_kill(tmp_path: Path) -> None:  # R54
    with reserved_port() as port:
        killed_after_announcing(tmp_path, f"http://127.0.0.1:{port}/hook")
        assert pending(tmp_path / "outbox.sqlite3") == {"job"}
        with RunningServer(Receiver(200), port=port) as server:
            asyncio.run(deliver_what_is_left(tmp_path))
            [(_, _, headers, body)] = server.requests
    assert json.loads(body)["id"] == "job" and headers["webhook-id"]


def test_a_kill_in_mid_call_delivers_again_under_the_same_id(tmp_path: Path) -> None:  # R54
    with reserved_port() as port:
        with RunningServer(hang, port=port) as server:
            killed_after_announcing(tmp_path, f"{server.url}/hook", lambda: server.requests)
            first = [headers["webhook-id"] for _, _, headers, _ in server.requests]
        with RunningServer(Receiver(200), port=port) as server:
            asyncio.run(deliver_what_is_left(tmp_path))
            second = [headers["webhook-id"] for _, _, headers, _ in server.requests]
    assert len(first) == 1 and first == second


def test_the_same_announcement_twice_is_one_event(tmp_path: Path) -> None:
    async def main() -> None:
        async with delivering(tmp_path, settings()) as delivery:
            await delivery.announce("job", ENVELOPE, hook(server))
            await until(lambda: server.requests)
            await delivery.announce("job", ENVELOPE, hook(server))
            assert await delivery.webhooks_pending() == 1

    with RunningServer(hang) as server:
        asyncio.run(main())


def test_nobody_else_reads_the_outbox_and_a_broken_one_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        async with delivering(tmp_path, settings()) as delivery:
            await delivery.announce("job", ENVELOPE, WebhookSettings(url="http://127.0.0.1:9/"))
            modes.update(await asyncio.to_thread(readable_by))

    def readable_by() -> dict[str, int]:
        return {path.name: path.stat().st_mode & 0o077 for path in tmp_path.glob("outbox*")}

    modes: dict[str, int] = {}
    asyncio.run(main())
    assert len(modes) == 3 and set(modes.values()) == {0}
    broken = tmp_path / "broken.sqlite3"
    broken.write_bytes(b"this is no database" * 100)
    with pytest.raises(CheckFailed, match=r"broken\.sqlite3"):
        asyncio.run(Delivery(settings(), broken).open())
    with pytest.raises(CheckFailed, match=r"broken\.sqlite3"):
        pending(broken)
    assert pending(tmp_path / "absent.sqlite3") == set()
