"""Calls the webhooks in the outbox until each is delivered or given up; no receiver holds up the others."""

import asyncio
import contextlib
import email.utils
import hashlib
import json
import logging
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

import aiohttp
from yarl import URL

from ltxops.timing import in_time
from ltxops.wrapper.delivery.addresses import AddressRefused, Network, parse_url
from ltxops.wrapper.delivery.connections import why
from ltxops.wrapper.delivery.counters import Counters
from ltxops.wrapper.delivery.outbox import Event, Outbox
from ltxops.wrapper.delivery.signing import headers

log = logging.getLogger("ltxops.wrapper.delivery")

#: Calls at once, altogether and to one scheme, host and port: one that hangs keeps only its own share.
MAX_CALLS = 16
MAX_CALLS_AN_ORIGIN = 2
#: A receiver may ask for this long a wait at most.
MAX_RETRY_AFTER_SECONDS = 3600.0
#: An attempt comes up to this share earlier or later: those that failed together do not return together.
JITTER = 0.2

_DATABASE_PAUSE_SECONDS = 5.0

#: Runs a blocking call of the outbox in its thread.
Call = Callable[..., Awaitable[Any]]


def event_of(
    job_id: str,
    envelope: Mapping[str, Any],
    extra_params: Mapping[str, Any] | None,
    url: str,
    *,
    of_host: bool,
) -> Event:
    """Return the event that tells of a job's end. The same one again has the same id."""
    body = json.dumps(
        {
            "id": job_id,
            "status": envelope.get("status"),
            "message": envelope.get("message"),
            "output": envelope.get("output") or [],
            "timings": envelope.get("timings") or {},
            "extra_params": dict(extra_params or {}),
        },
        allow_nan=False,
        separators=(",", ":"),
    ).encode()
    digest = hashlib.sha256(b"\0".join((job_id.encode(), url.encode(), body))).hexdigest()
    origin = str(URL(url, encoded=True).origin())
    return Event(f"msg_{digest[:32]}", job_id, url, origin, of_host, body)


def judge(status: int) -> Literal["delivered", "gone", "failed"]:
    """Say what an answer means. A redirect is a failure: it would lead where nobody looked."""
    if 200 <= status < 300:
        return "delivered"
    return "gone" if status == 410 else "failed"


def wait_before(
    attempts: int, schedule: Sequence[float], retry_after: float | None, spread: float
) -> float | None:
    """Return the seconds until the next attempt after `attempts` failed ones, or None to give up.

    `spread` is a random number from -1 to 1; `retry_after` the receiver's wish in seconds.
    """
    if attempts > len(schedule):
        return None
    wait = schedule[attempts - 1] * (1 + JITTER * spread)
    return max(wait, min(retry_after, MAX_RETRY_AFTER_SECONDS)) if retry_after else wait


def retry_after_seconds(value: str | None, now: float) -> float | None:
    """Return the seconds in a Retry-After header, which is a number or a date; None when it is neither."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    return None


class Caller:
    """Delivers what is in the outbox while it runs. `sessions`: for the host's URL, for those of requests."""

    def __init__(
        self,
        outbox: Outbox,
        call: Call,
        sessions: tuple[aiohttp.ClientSession, aiohttp.ClientSession],
        secrets: Sequence[bytes],
        *,
        allowed: Sequence[Network],
        timeout_seconds: float,
        schedule: Sequence[float],
        counters: Counters,
    ) -> None:
        self._outbox = outbox
        self._call = call
        self._of_host, self._of_requests = sessions
        self._secrets = secrets
        self._allowed = allowed
        self._timeout_seconds = timeout_seconds
        self._schedule = schedule
        self._counters = counters
        self._calls: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Look into the outbox now."""
        self._changed.set()

    async def run(self) -> None:
        """Deliver for ever. Cancelling this leaves what is not delivered in the outbox."""
        try:
            while True:
                self._changed.clear()
                try:
                    wait_seconds = await self._start_what_is_due()
                except sqlite3.Error as error:
                    log.error("the outbox cannot be read (%s); trying again", error)
                    wait_seconds = _DATABASE_PAUSE_SECONDS
                with contextlib.suppress(asyncio.TimeoutError):
                    await in_time(self._changed.wait(), wait_seconds)
        finally:
            tasks = [task for _, task in self._calls.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _start_what_is_due(self) -> float | None:
        """Start calls while there is room; return the seconds until more is due, None for no such time."""
        while len(self._calls) < MAX_CALLS:
            busy = Counter(origin for origin, _ in self._calls.values())
            full = [origin for origin, calls in busy.items() if calls >= MAX_CALLS_AN_ORIGIN]
            due: tuple[Event | None, float | None] = await self._call(
                self._outbox.next_due, list(self._calls), full
            )
            event, wait_seconds = due
            if event is None:
                return wait_seconds
            task = asyncio.create_task(self._deliver(event))
            self._calls[event.id] = (event.origin, task)
        return None

    async def _deliver(self, event: Event) -> None:
        try:
            verdict, detail, retry_after = await self._attempt(event)
            await self._conclude(event, verdict, detail, retry_after)
        except sqlite3.Error as error:
            # The event stays due, and its receiver may hear of it twice: under one id.
            log.error("job %s: the outbox cannot be written (%s)", event.job_id, error)
            await asyncio.sleep(_DATABASE_PAUSE_SECONDS)
        finally:
            del self._calls[event.id]
            self.wake()

    async def _attempt(self, event: Event) -> tuple[str, str, float | None]:
        """Make one call; return the verdict, what was answered, and how many seconds the receiver wants."""
        now = time.time()
        sent = headers(event.id, int(now), event.body, self._secrets)
        session = self._of_host if event.of_host else self._of_requests
        try:
            url = parse_url(event.url, None if event.of_host else self._allowed)
            # What the answer says is not read: only its status counts.
            async with session.post(
                url,
                data=event.body,
                headers={**sent, "Content-Type": "application/json"},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=self._timeout_seconds),
            ) as response:
                wish = retry_after_seconds(response.headers.get("Retry-After"), now)
                return judge(response.status), f"its receiver answered {response.status}", wish
        except AddressRefused as error:
            # Another setting than when it was accepted; an address that a name has now is a failed attempt.
            return "refused", str(error), None
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            return "failed", why(error, self._timeout_seconds), None
        except Exception as error:
            log.exception("job %s: the webhook call failed in the wrapper itself", event.job_id)
            return "failed", type(error).__name__, None

    async def _conclude(self, event: Event, verdict: str, detail: str, retry_after: float | None) -> None:
        attempts = event.attempts + 1
        wait_seconds = None
        if verdict == "failed":
            self._counters.webhook_attempts_failed += 1
            wait_seconds = wait_before(attempts, self._schedule, retry_after, random.uniform(-1, 1))
        if wait_seconds is not None:
            log.warning(
                "job %s: webhook to %s failed (attempt %d, %s); again in %.0f s",
                event.job_id, event.origin, attempts, detail, wait_seconds,
            )  # fmt: skip
            await self._call(self._outbox.retry, event.id, wait_seconds)
            return
        await self._call(self._outbox.settle, event.id)
        if verdict == "delivered":
            self._counters.webhooks_delivered += 1
            log.info("job %s: webhook delivered to %s", event.job_id, event.origin)
        else:
            self._counters.webhooks_given_up += 1
            log.error(
                "job %s: webhook to %s given up after %d attempts: %s",
                event.job_id, event.origin, attempts, detail,
            )  # fmt: skip
