"""The wrapper as a process: its socket, its signals, its log, and the order in which they start and stop."""

import asyncio
import contextlib
import errno
import logging
import os
import signal as signals
import socket
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import uvicorn

from ltxops.errors import BadInput, CheckFailed
from ltxops.wrapper.app import create_app
from ltxops.wrapper.backends import Backends
from ltxops.wrapper.compat import compat_routes
from ltxops.wrapper.database import JobDatabase
from ltxops.wrapper.delivery.service import Delivery
from ltxops.wrapper.delivery.settings import DeliverySettings
from ltxops.wrapper.jobs import Jobs
from ltxops.wrapper.logs import set_up_logging, signal
from ltxops.wrapper.metrics import Metrics
from ltxops.wrapper.settings import JobSettings
from ltxops.wrapper.store import Store

log = logging.getLogger("ltxops.wrapper")

#: How long answers that are ready may take to reach their clients after a stop.
STOP_SECONDS = 3


@dataclass(frozen=True)
class Settings:
    """What one wrapper is told. Paths are absolute."""

    host: str
    port: int
    backends: list[str]
    state: Path
    jobs: JobSettings
    backend_timeout_seconds: float
    max_body_bytes: int


class _Server(uvicorn.Server):
    """Leaves signals to `_serve`, which has jobs to answer before the connections may close."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises CheckFailed when the port is taken, BadInput when the output or the state folder cannot be used,
    Busy when another wrapper has the state folder.
    """
    if not settings.jobs.output_directory.is_dir():
        raise BadInput(
            f"the output folder {settings.jobs.output_directory} does not exist; give --output-directory the "
            "folder ComfyUI writes to"
        )
    delivery = DeliverySettings.from_environment(os.environ)
    set_up_logging()
    with (
        contextlib.closing(listen(settings.host, settings.port)) as listener,
        JobDatabase(settings.state) as database,
    ):
        asyncio.run(_serve(settings, delivery, listener, database))


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; CheckFailed when the port is taken, BadInput when the host is wrong."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise BadInput(
            f"cannot listen on the host {host!r}: {error}; give an address of this machine"
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise CheckFailed(
                f"port {port} on {host} is taken by another program; stop it or choose another --port"
            ) from error
        raise CheckFailed(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


async def _serve(
    settings: Settings, delivery: DeliverySettings, listener: socket.socket, database: JobDatabase
) -> None:
    deliverer = Delivery(delivery, settings.state / "outbox.sqlite3")
    store = Store(database)
    session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)
    async with Backends(settings.backends) as backends, session:
        jobs = Jobs(store, backends, deliverer, settings.jobs, lambda outcome: metrics.ended(outcome))
        metrics = Metrics(jobs.counts, backends.report, lambda: asdict(deliverer.counters))
        await deliverer.open()
        await jobs.take_up()
        app = create_app(jobs, backends, deliverer, metrics, max_body_bytes=settings.max_body_bytes)
        app.include_router(compat_routes(settings.backends[0], session))
        server = _Server(
            uvicorn.Config(
                app,
                log_config=None,
                # A request's path is a user's text, and every job has lines of its own.
                access_log=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signals.SIGTERM, signals.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        watching = asyncio.create_task(_watch(settings, backends))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        log.info("listening on http://%s:%d, docs at /docs", settings.host, settings.port)
        stopping = asyncio.create_task(stopped.wait())
        ended, _ = await asyncio.wait({stopping, serving, watching}, return_when=asyncio.FIRST_COMPLETED)
        log.info("stopping: %d jobs are unfinished", sum(jobs.counts().values()))
        watching.cancel()
        await jobs.stop()
        server.should_exit = True
        await serving
        await deliverer.close()
        store.close()
        stopping.cancel()
        await asyncio.gather(watching, stopping, return_exceptions=True)
        for task in ended:  # a stop ends with nothing to say; anything else ended with an error
            task.result()


async def _watch(settings: Settings, backends: Backends) -> None:
    where = ", ".join(settings.backends)
    await backends.watch(
        settings.backend_timeout_seconds,
        on_ready=lambda: signal("BACKENDS_READY"),
        on_timeout=lambda: signal(
            "Application startup failed: no ComfyUI answered within "
            f"{settings.backend_timeout_seconds:g} s at {where}"
        ),
        on_unrecoverable=lambda: signal(
            f"BACKEND_UNRECOVERABLE: every GPU failed and no ComfyUI was restarted, at {where}"
        ),
    )
