"""The wrapper as a process: its socket, its signals, its log, and the order in which they start and stop."""

import asyncio
import contextlib
import errno
import logging
import os
import signal as signals
import socket
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvicorn

from ltxops.errors import BadInput, CheckFailed
from ltxops.wrapper.app import create_app
from ltxops.wrapper.backends import Backends
from ltxops.wrapper.database import JobDatabase
from ltxops.wrapper.jobs import Jobs
from ltxops.wrapper.logs import set_up_logging, signal

log = logging.getLogger("ltxops.wrapper")

#: How long answers that are ready may take to reach their clients after a stop.
STOP_SECONDS = 3

#: Settings of the platform that ask for a delivery which this version does not make.
DELIVERY_VARIABLES = (
    "S3_ACCESS_KEY_ID",
    "S3_SECRET_ACCESS_KEY",
    "S3_BUCKET_NAME",
    "S3_ENDPOINT_URL",
    "S3_REGION",
    "WEBHOOK_URL",
)


@dataclass(frozen=True)
class Settings:
    """What one wrapper is told. Paths are absolute."""

    host: str
    port: int
    backends: list[str]
    output_directory: Path
    state: Path
    backend_timeout_seconds: float
    job_timeout_seconds: float
    max_waiting: int
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
    if not settings.output_directory.is_dir():
        raise BadInput(
            f"the output folder {settings.output_directory} does not exist; give --output-directory the "
            "folder ComfyUI writes to"
        )
    set_up_logging()
    with (
        contextlib.closing(listen(settings.host, settings.port)) as listener,
        JobDatabase(settings.state) as database,
    ):
        for line in undelivered(os.environ):
            log.warning(line)
        asyncio.run(_serve(settings, listener, database))


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


def undelivered(environment: Mapping[str, str]) -> list[str]:
    """Return one line when the environment asks for uploads or calls: the variables, never their values."""
    found = [name for name in DELIVERY_VARIABLES if environment.get(name, "").strip()]
    if not found:
        return []
    return [f"{', '.join(found)} set, but this version uploads nothing and calls no webhook"]


async def _serve(settings: Settings, listener: socket.socket, database: JobDatabase) -> None:
    async with Backends(settings.backends) as backends:
        jobs = Jobs(
            database,
            backends,
            settings.output_directory,
            max_waiting=settings.max_waiting,
            deadline_seconds=settings.job_timeout_seconds,
        )
        await jobs.fail_left_over()
        app = create_app(jobs, backends, max_body_bytes=settings.max_body_bytes)
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
        watching = asyncio.create_task(
            backends.watch(
                settings.backend_timeout_seconds,
                on_ready=partial(signal, "BACKENDS_READY"),
                on_timeout=partial(
                    signal,
                    "Application startup failed: no ComfyUI answered within "
                    f"{settings.backend_timeout_seconds:g} s at {', '.join(settings.backends)}",
                ),
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        log.info("listening on http://%s:%d, docs at /docs", settings.host, settings.port)
        stopping = asyncio.create_task(stopped.wait())
        ended, _ = await asyncio.wait({stopping, serving, watching}, return_when=asyncio.FIRST_COMPLETED)
        log.info("stopping: %d jobs are unfinished", sum(jobs.counts().values()))
        watching.cancel()
        await jobs.stop()
        server.should_exit = True
        await serving
        await jobs.close()
        stopping.cancel()
        await asyncio.gather(watching, stopping, return_exceptions=True)
        for task in ended:  # a stop ends with nothing to say; anything else ended with an error
            task.result()
