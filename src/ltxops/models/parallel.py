"""Doing the same with many items, some at a time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(jobs: int, items: list[Item], work: Callable[[Item], Result]) -> list[tuple[Item, Result]]:
    """Run `work` on every item, `jobs` at a time; the first error is raised once those under way end."""
    if not items:
        return []
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [(item, future.result()) for item, future in zip(items, futures, strict=True)]
        except BaseException:
            for future in futures:
                future.cancel()
            raise
