"""The ComfyUI processes behind the wrapper: which ones, whether they answer, and who takes the next job."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

from ltxops.errors import BadInput, LtxopsError
from ltxops.generation.comfyui import ComfyClient
from ltxops.wrapper.schema import BackendHealth

log = logging.getLogger("ltxops.wrapper")

#: Seconds between probes. Before the first answer they are closer: somebody is waiting for it.
PROBE_SECONDS = 2.0
FIRST_PROBE_SECONDS = 0.25
#: A probe may take this long. PyWorker gives `/health` 10 s, so a verdict is always younger than that.
PROBE_TIMEOUT_SECONDS = 8.0
#: ComfyUI answers slowly while it loads a model. Silent for longer than this, it is taken for hung.
SILENCE_SECONDS = 60.0

State = Literal["up", "slow", "down"]


def judge(error: BaseException | None, silent_seconds: float) -> State:
    """Say how a backend is after a probe ended with `error`, `silent_seconds` after its last answer."""
    if error is None:
        return "up"
    hung = isinstance(error, asyncio.TimeoutError)
    return "slow" if hung and silent_seconds < SILENCE_SECONDS else "down"


def parse_backends(text: str) -> list[str]:
    """Return the URLs of a list separated by commas or blanks; raises BadInput naming the wrong one."""
    urls = [url.rstrip("/") for url in text.replace(",", " ").split()]
    if not urls:
        raise BadInput("no backend is given; pass --backend http://127.0.0.1:18188 or set COMFYUI_BACKENDS")
    for url in urls:
        try:
            parts = urlsplit(url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise BadInput(f"backend {url!r} is no http URL; write it like http://127.0.0.1:18188")
    if len(set(urls)) != len(urls):
        raise BadInput("one backend is named twice; name each ComfyUI once")
    return urls


class Backend:
    """One ComfyUI process. `active` counts the jobs that it has from us."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = ComfyClient(url)
        self.active = 0
        self.state: State = "down"
        self.error: str | None = "not asked yet"
        self._last_answer = float("-inf")

    async def probe(self) -> None:
        """Ask the backend how it is; never raises."""
        problem: BaseException | None = None
        try:
            await asyncio.wait_for(self.client.system_stats(), PROBE_TIMEOUT_SECONDS)
        except asyncio.TimeoutError as error:
            problem, self.error = error, f"no answer within {PROBE_TIMEOUT_SECONDS:g} s"
        except LtxopsError as error:
            problem, self.error = error, str(error)
        else:
            self.error = None
            self._last_answer = time.monotonic()
        before, self.state = self.state, judge(problem, time.monotonic() - self._last_answer)
        if self.state != before:
            log.info("backend %s is %s%s", self.url, self.state, f": {self.error}" if self.error else "")


class Backends:
    """All backends. Use as an asynchronous context manager: it keeps one HTTP session to each."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.all = [Backend(url) for url in urls]

    async def __aenter__(self) -> "Backends":
        for backend in self.all:
            await backend.client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for backend in self.all:
            await backend.client.__aexit__(kind, error, trace)

    def choose(self) -> Backend:
        """Return the backend for the next job: one that answers if any does, of those the least busy."""
        rank = {"up": 0, "slow": 1, "down": 2}
        return min(self.all, key=lambda backend: (rank[backend.state], backend.active))

    def healthy(self) -> bool:
        """True when a backend answers."""
        return any(backend.state != "down" for backend in self.all)

    def report(self) -> list[BackendHealth]:
        """Return the state of each backend as last seen."""
        return [BackendHealth(url=b.url, state=b.state, error=b.error) for b in self.all]

    async def watch(
        self, timeout_seconds: float, on_ready: Callable[[], None], on_timeout: Callable[[], None]
    ) -> None:
        """Probe for ever. Calls `on_ready` once, when a backend has answered for the first time, and
        `on_timeout` once if that has not happened after `timeout_seconds`."""
        deadline = time.monotonic() + timeout_seconds
        ready = timed_out = False
        while True:
            await asyncio.gather(*(backend.probe() for backend in self.all))
            if not ready and self.healthy():
                ready = True
                on_ready()
            if not ready and not timed_out and time.monotonic() >= deadline:
                timed_out = True
                on_timeout()
            await asyncio.sleep(PROBE_SECONDS if ready else FIRST_PROBE_SECONDS)
