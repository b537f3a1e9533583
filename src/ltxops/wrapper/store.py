"""The job database, asked from the event loop: one thread, so that its calls keep their order."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from ltxops.wrapper.database import JobDatabase

log = logging.getLogger("ltxops.wrapper")

_T = TypeVar("_T")


class Store:
    """Runs the methods of `database` in a thread. A call that was made is done, whoever stops waiting."""

    def __init__(self, database: JobDatabase) -> None:
        self.database = database
        self._thread = ThreadPoolExecutor(1, "jobs-database")

    def call(self, method: Callable[..., _T], *args: object, **options: object) -> "asyncio.Future[_T]":
        """Begin a call of a method of `database` and return its result to be awaited."""
        loop = asyncio.get_running_loop()
        return asyncio.shield(loop.run_in_executor(self._thread, partial(method, *args, **options)))

    def note(self, method: Callable[..., None], *args: object) -> None:
        """Begin a call that nobody waits for: later calls come after it, and a failure is in the log."""

        def report(done: "asyncio.Future[None]") -> None:
            if not done.cancelled() and done.exception() is not None:
                log.error(
                    "%s of job %s could not be recorded: %s", method.__name__, args[0], done.exception()
                )

        self.call(method, *args).add_done_callback(report)

    def close(self) -> None:
        """End the thread, after the calls that were begun."""
        self._thread.shutdown()
