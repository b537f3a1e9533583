"""A job as server-sent events: how it stands, node by node, step by step, and its envelope at the end.

The format is that of the HTML standard (https://html.spec.whatwg.org/multipage/server-sent-events.html).
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ltxops.wrapper.answers import strict_json
from ltxops.wrapper.job import Job

#: Seconds of silence after which a comment is sent: proxies close what is silent, often after 60.
HEARTBEAT_SECONDS = 15.0


async def job_events(job: Job) -> AsyncIterator[bytes]:
    """Give the events of `job` to its end. Whoever stops listening leaves the job alone."""
    messages = job.listen()
    waiting: asyncio.Future[Any] | None = None
    try:
        while not job.outcome.done() or not messages.empty():
            waiting = waiting or asyncio.ensure_future(messages.get())
            await asyncio.wait(
                {waiting, job.outcome}, timeout=HEARTBEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if waiting.done():
                name, data = waiting.result()
                waiting = None
                yield _event(name, data)
            elif not job.outcome.done():
                yield b": still there\n\n"
            else:
                break
        outcome = job.outcome.result()
        yield _event("error" if "error" in outcome.body else "result", outcome.body)
    finally:
        if waiting is not None:
            waiting.cancel()
        job.leave(messages)


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + strict_json(data) + b"\n\n"
