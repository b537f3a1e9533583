"""Starts and stops the engine's HTTP server."""

import asyncio
import errno
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from ltxops.embedded.comfyui.engine import DEVICE, LOG, Engine
from ltxops.embedded.comfyui.options import Options
from ltxops.embedded.comfyui.origin import refuse_foreign
from ltxops.embedded.comfyui.routes import ENGINE, add_routes
from ltxops.errors import CheckFailed

#: How long open requests and the running job get when the engine is told to stop.
STOP_SECONDS = 1.0


@asynccontextmanager
async def running(options: Options) -> AsyncIterator[str]:
    """Serve inside the block; gives the address it listens on, such as http://127.0.0.1:8188.

    Raises CheckFailed when the port is taken or the address is not one of this machine.
    """
    engine = Engine(options)
    app = web.Application(middlewares=[refuse_foreign], client_max_size=options.max_upload_bytes)
    app[ENGINE] = engine
    add_routes(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    try:
        try:
            site = web.TCPSite(runner, options.host, options.port)
            await site.start()
        except OSError as error:
            raise CheckFailed(_no_port(options, error)) from error
        engine.start()
        port = runner.addresses[0][1]
        host = f"[{options.host}]" if ":" in options.host else options.host
        try:
            yield f"http://{host}:{port}"
        finally:
            engine.queue.close()
            await engine.sockets.close()
            await asyncio.to_thread(engine.stop, STOP_SECONDS)
    finally:
        await runner.cleanup()


def serve(options: Options) -> int:
    """Serve until SIGTERM or SIGINT and log to stderr; returns the exit code.

    Raises CheckFailed as `running` does.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return asyncio.run(_serve(options))


async def _serve(options: Options) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    async with running(options) as address:
        LOG.info(f"{DEVICE}: speaks ComfyUI's API, renders a test pattern. This is not LTX-2.")
        LOG.info(f"models {options.folders.models}, output {options.folders.output}")
        LOG.info(f"To see the GUI go to: {address}")
        await stop.wait()
    return 0


def _no_port(options: Options, error: OSError) -> str:
    """Return one sentence about an address that cannot be had."""
    where = f"{options.host}:{options.port}"
    if error.errno == errno.EADDRINUSE:
        return f"port {options.port} on {options.host} is taken: stop what listens there, or choose another"
    return f"cannot listen on {where}: {error.strerror or error}; give --listen an address of this machine"
