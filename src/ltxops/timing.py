"""A time limit that never swallows a cancellation."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


async def in_time(work: Coroutine[Any, Any, _T], seconds: float | None) -> _T:
    """Return what `work` returns; raises asyncio.TimeoutError after `seconds`, with `work` ended.

    None waits for ever. Before Python 3.12 `asyncio.wait_for` forgets a cancellation that comes together with
    the result, and what was given up would go on.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    raise asyncio.TimeoutError
