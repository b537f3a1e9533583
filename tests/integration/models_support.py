"""A real embedded hub in a thread, which counts what it is asked and misbehaves on request."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import web

from ltxops.embedded.hub import EmbeddedHub, read_repositories, write_missing
from ltxops.models import manifest
from ltxops.models.hub import Hub
from ltxops.models.lock import load as load_lock
from ltxops.models.lock import lock_path, save
from ltxops.models.part import PartFile
from ltxops.models.plan import Wanted, wanted_files
from ltxops.models.progress import Reporter
from ltxops.models.report import Report
from ltxops.models.store import Store
from ltxops.models.sync import resolve, sync
from ltxops.models.terminal import Lines

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: Answers a request in place of the hub, or returns None to leave it to the hub.
Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]

MANIFEST = """\
version: 1
models:
  open: {repo: owner/open, file: deep/open.safetensors, dest: checkpoints/}
  lora: {repo: owner/lora, file: lora.safetensors, dest: loras/renamed.safetensors}
  folder: {repo: owner/folder, files: ["*.safetensors", "*.json"], dest: text_encoders/folder/}
  gated: {repo: owner/gated, file: gated.safetensors, dest: loras/, gated: true}
profiles:
  one: {models: [lora]}
  open: {extends: [one], models: [open, folder]}
  gated: {models: [gated]}
"""
#: Where the manifest puts the single files of its open repositories.
LORA = "loras/renamed.safetensors"
CHECKPOINT = "checkpoints/open.safetensors"


class RunningHub:
    """The embedded hub on a free port of 127.0.0.1. `requests` lists what it was asked as (method, path)."""

    def __init__(self, tmp_path: Path, *, token: str | None = None, cdn_url: str = "") -> None:
        self.manifest_path = tmp_path / "models.yaml"
        if not self.manifest_path.exists():
            self.manifest_path.write_text(MANIFEST, encoding="utf-8")
        self.folder = tmp_path / "hub"
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.fault: Fault | None = None
        self.url = ""
        self._token = token
        self._cdn_url = cdn_url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="hub")
        self._ready = threading.Event()

    def __enter__(self) -> "RunningHub":
        wanted = manifest.load(self.manifest_path)
        write_missing(wanted, self.folder)
        self.repositories = read_repositories(wanted, self.folder)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def file(self, name: str) -> Path:
        """Return where the hub keeps a file, given as owner/name/path."""
        return self.folder / name

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
            # Answers that a client has left in the middle, and that are still being slow.
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        app = EmbeddedHub(self.repositories, self._token, self._cdn_url).app()
        app.middlewares.append(self._middleware())
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    def _middleware(self) -> Any:
        @web.middleware
        async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
            self.requests.append((request.method, request.path))
            self.headers.append({name.lower(): value for name, value in request.headers.items()})
            if self.fault is not None and (answer := await self.fault(request)) is not None:
                return answer
            return await handler(request)

        return observe


def run_sync(
    hub: RunningHub, root: Path, profile: str = "open", *, token: str | None = None, reserve_bytes: int = 0
) -> Report:
    """Sync a profile as the command does, with retries that follow one another quickly."""
    wanted = manifest.load(hub.manifest_path)
    return sync(
        Store(root),
        wanted.profile(profile),
        load_lock(wanted),
        hub=lambda: Hub(hub.url, token, attempts=3, backoff_seconds=0.01),
        reserve_bytes=reserve_bytes,
        jobs=2,
        wait_seconds=0,
        show=Reporter().add(Lines()),
        still_wanted=wanted.models.values(),
    )


def write_lock(hub: RunningHub) -> None:
    """Lock what the hub has now, as far as it has no gate."""
    wanted = manifest.load(hub.manifest_path)
    save(lock_path(hub.manifest_path), resolve(wanted.profile("open"), Hub(hub.url, None), 4), wanted)


def file_of(hub: RunningHub, root: Path, model: str) -> Wanted:
    """Return the one file of a model that was locked, or fetched to `root` before."""
    wanted = manifest.load(hub.manifest_path)
    files, _ = wanted_files([wanted.models[model]], load_lock(wanted), Store(root).ledger.resolved)
    [item] = files
    return item


def leave_part(root: Path, item: Wanted, beginning: bytes, version: str | None = None) -> Path:
    """Leave what a killed run would: the `beginning` of a file, and the `version` that the server told."""
    store = Store(root)
    store.prepare()
    part = PartFile(store.part(item), item.file)
    part.write(memoryview(beginning), 0)
    part.record(0, len(beginning))
    if version is not None:
        part.record_source(version)
    part.close()
    return part.path


def leftovers(root: Path) -> list[str]:
    """Return the names of what is in the folder of unfinished files."""
    return [path.name for path in (root / ".ltxops/incoming").iterdir()]


def ltxops(*args: str | Path, home: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `ltxops models ARGS` as a process of its own, with an empty home folder."""
    return subprocess.run(
        command(*args), env=clean_environment(home, **environment), capture_output=True, text=True, timeout=60
    )


def command(*args: str | Path) -> list[str]:
    """Return the command line of `ltxops models ARGS`."""
    return [sys.executable, "-m", "ltxops.cli.main", "models", *map(str, args)]


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """Return an environment in which nothing of the hub's is set but `more`."""
    home.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    return {**kept, "HOME": str(home), **more}
