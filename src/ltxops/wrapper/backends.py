"""The ComfyUI processes behind the wrapper: which ones, whether they answer, and which GPU is broken."""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

from ltxops.errors import BadInput, LtxopsError
from ltxops.generation.comfyui import ComfyClient
from ltxops.timing import in_time
from ltxops.wrapper.schema import BackendHealth

log = logging.getLogger("ltxops.wrapper")

#: Seconds between probes. Before the first answer they are closer: somebody is waiting for it.
PROBE_SECONDS = 2.0
FIRST_PROBE_SECONDS = 0.25
#: A probe may take this long. PyWorker gives `/health` 10 s, so a verdict is always younger than that.
PROBE_TIMEOUT_SECONDS = 8.0
#: ComfyUI answers slowly while it loads a model. Silent for longer than this, it is taken for hung.
SILENCE_SECONDS = 60.0
#: How long every GPU may be broken before the host is given up: time for a supervisor to restart ComfyUI.
UNRECOVERABLE_SECONDS = 300.0
#: How long it may take to tell ComfyUI that nobody waits for a job any more.
CANCEL_SECONDS = 2.0

#: One name: the folder of a backend's outputs lies in the output folder.
_FOLDER = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,64}")

State = Literal["up", "slow", "down", "faulty"]


def judge(error: BaseException | None, silent_seconds: float) -> Literal["up", "slow", "down"]:
    """Say how a backend is after a probe ended with `error`, `silent_seconds` after its last answer."""
    if error is None:
        return "up"
    hung = isinstance(error, asyncio.TimeoutError)
    return "slow" if hung and silent_seconds < SILENCE_SECONDS else "down"


def parse_backends(text: str) -> list[str]:
    """Return the backends of a list separated by commas or blanks; raises BadInput naming the wrong one.

    Each is a URL, and behind a `#` the folder of its outputs where that is not the output folder itself.
    """
    urls = [f"{url.rstrip('/')}{mark}{folder}" for url, mark, folder in _parted(text)]
    if not urls:
        raise BadInput("no backend is given; pass --backend http://127.0.0.1:18188 or set COMFYUI_BACKENDS")
    for url in urls:
        try:
            parts = urlsplit(url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            valid = valid and (not parts.fragment or _FOLDER.fullmatch(parts.fragment) is not None)
        except ValueError:
            valid = False
        if not valid:
            raise BadInput(
                f"backend {url!r} is no http URL; write it like http://127.0.0.1:18188, or "
                "http://127.0.0.1:18189#gpu.1 where its outputs are in the folder gpu.1 of the output folder"
            )
    if len({url.partition("#")[0] for url in urls}) != len(urls):
        raise BadInput("one backend is named twice; name each ComfyUI once")
    return urls


def _parted(text: str) -> list[tuple[str, str, str]]:
    return [entry.partition("#") for entry in text.replace(",", " ").split()]


class Backend:
    """One ComfyUI process, as `parse_backends` gives it. `active` counts the jobs that it has from us.

    `output_subfolder` is where in the output folder it writes: two processes that write to one folder choose
    the same name for two files, because each counts the files that it sees and then writes
    (`get_save_image_path` in ComfyUI's folder_paths.py).
    `faulted_prompt` is the job that its GPU failed: while ComfyUI, which keeps its history in memory, still
    knows that job, it has not been restarted.
    """

    def __init__(self, entry: str) -> None:
        self.url, _, self.output_subfolder = entry.partition("#")
        self.client = ComfyClient(self.url)
        self.active = 0
        self.state: State = "down"
        self.error: str | None = "not asked yet"
        self.http = self.websocket = False
        self.queue_remaining = 0
        self.faulted_prompt: str | None = None
        self._last_answer = float("-inf")

    async def probe(self) -> None:
        """Ask the backend how it is; never raises."""
        problem: BaseException | None = None
        try:
            await in_time(self._ask(), PROBE_TIMEOUT_SECONDS)
        except asyncio.TimeoutError as error:
            problem, self.error = error, f"no answer within {PROBE_TIMEOUT_SECONDS:g} s"
        except LtxopsError as error:
            problem, self.error = error, str(error)
        else:
            self.error = None
            self._last_answer = time.monotonic()
        state: State = judge(problem, time.monotonic() - self._last_answer)
        if self.faulted_prompt is not None and state != "down":
            state = "faulty"
            self.error = f"its GPU failed job {self.faulted_prompt}; restart ComfyUI"
        self._become(state)

    async def _ask(self) -> None:
        self.http = self.websocket = False
        await self.client.system_stats()
        self.http = True
        status = await self.client.status()
        self.websocket = True
        remaining = (status.get("exec_info") or {}).get("queue_remaining")
        self.queue_remaining = remaining if isinstance(remaining, int) else 0
        if self.faulted_prompt is not None and await self.client.history(self.faulted_prompt) is None:
            self.faulted_prompt = None

    def lost(self, error: BaseException) -> None:
        """Take the backend for down until it answers again."""
        self.error = str(error)
        self._become("down")

    def latch(self, prompt_id: str) -> None:
        """Give the backend no more jobs until ComfyUI has been restarted."""
        self.faulted_prompt = prompt_id
        self.error = f"its GPU failed job {prompt_id}; restart ComfyUI"
        self._become("faulty")

    def _become(self, state: State) -> None:
        before, self.state = self.state, state
        if state != before:
            log.info("backend %s is %s%s", self.url, state, f": {self.error}" if self.error else "")

    async def give_up(self, prompt_id: str) -> None:
        """Take a job that nobody waits for off the GPU, if ComfyUI still listens, and no other job."""
        with contextlib.suppress(LtxopsError, asyncio.TimeoutError):
            await in_time(self._cancel(prompt_id), CANCEL_SECONDS)

    async def _cancel(self, prompt_id: str) -> None:
        await self.client.delete_queued(prompt_id)
        running = (await self.client.queue()).get("queue_running") or []
        # A ComfyUI that knows no targeted interruption would stop whatever runs.
        if any(isinstance(entry, list) and prompt_id in entry[:2] for entry in running):
            await self.client.interrupt(prompt_id)

    def report(self) -> BackendHealth:
        """Return the state as last seen."""
        return BackendHealth(
            url=self.url,
            state=self.state,
            http=self.http,
            websocket=self.websocket,
            error=self.error,
            running=self.active,
            queue_remaining=self.queue_remaining,
        )


class Backends:
    """All backends. Use as an asynchronous context manager: it keeps one HTTP session to each.

    `on_change` is called after each look at them.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self.all = [Backend(entry) for entry in entries]
        self.on_change: Callable[[], None] = lambda: None

    async def __aenter__(self) -> "Backends":
        for backend in self.all:
            await backend.client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for backend in self.all:
            await backend.client.__aexit__(kind, error, trace)

    def usable(self) -> list[Backend]:
        """Return the backends that take jobs, the one for the next job first."""
        rank = {"up": 0, "slow": 1}
        usable = [backend for backend in self.all if backend.state in rank]
        return sorted(usable, key=lambda one: (rank[one.state], one.active, one.queue_remaining))

    def find(self, url: str) -> Backend | None:
        """Return the backend of this URL, or None."""
        return next((backend for backend in self.all if backend.url == url), None)

    def healthy(self) -> bool:
        """True when a backend takes jobs."""
        return bool(self.usable())

    def report(self) -> list[BackendHealth]:
        """Return the state of each backend as last seen."""
        return [backend.report() for backend in self.all]

    async def probe(self) -> None:
        """Ask every backend how it is."""
        await asyncio.gather(*(backend.probe() for backend in self.all))
        self.on_change()

    async def watch(
        self,
        timeout_seconds: float,
        *,
        on_ready: Callable[[], None],
        on_timeout: Callable[[], None],
        on_unrecoverable: Callable[[], None],
    ) -> None:
        """Probe for ever. Calls each of these once: `on_ready` when a backend has answered for the first
        time, `on_timeout` if that has not happened after `timeout_seconds`, and `on_unrecoverable` when the
        GPU of every backend has been broken for UNRECOVERABLE_SECONDS."""
        deadline = time.monotonic() + timeout_seconds
        broken_since: float | None = None
        ready = timed_out = unrecoverable = False
        while True:
            await self.probe()
            now = time.monotonic()
            if not ready and self.healthy():
                ready = True
                on_ready()
            if not ready and not timed_out and now >= deadline:
                timed_out = True
                on_timeout()
            all_broken = all(backend.faulted_prompt is not None for backend in self.all)
            broken_since = (broken_since or now) if all_broken else None
            if not unrecoverable and broken_since is not None and now - broken_since >= UNRECOVERABLE_SECONDS:
                unrecoverable = True
                on_unrecoverable()
            await asyncio.sleep(PROBE_SECONDS if ready else FIRST_PROBE_SECONDS)
