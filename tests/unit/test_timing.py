"""The time limit that never swallows a cancellation."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from ltxops.timing import in_time


def test_what_is_in_time_is_returned_and_what_fails_says_so() -> None:
    async def fails() -> None:
        raise KeyError("its own")

    async def answers() -> int:
        await asyncio.sleep(0)
        return 7

    assert asyncio.run(in_time(answers(), 60)) == 7
    assert asyncio.run(in_time(answers(), None)) == 7
    with pytest.raises(KeyError, match="its own"):
        asyncio.run(in_time(fails(), 60))


def test_what_is_too_late_has_ended_when_its_caller_hears_of_it() -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append("slow")

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await in_time(slow(), 0.01)
        assert ended == ["slow"]

    asyncio.run(main())


def test_a_cancellation_that_comes_together_with_the_result_is_heard() -> None:
    async def main() -> None:
        result = asyncio.get_running_loop().create_future()

        async def work() -> Any:
            return await result

        async def caller() -> None:
            await in_time(work(), 60)
            pytest.fail("it went on after it was cancelled")

        await _cancelled_with(caller(), result)

    asyncio.run(main())


async def _cancelled_with(caller: Coroutine[Any, Any, None], result: "asyncio.Future[Any]") -> None:
    """Cancel `caller` in the moment in which what it waits for has its result and it has not heard of it."""
    task = asyncio.create_task(caller)
    await asyncio.sleep(0.01)
    result.set_result(1)
    await asyncio.sleep(0)  # the work takes its result
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
