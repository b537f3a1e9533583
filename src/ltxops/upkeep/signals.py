"""What signals do to a cleaner while it works. Everything here is to be called in the main thread."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def lease_breaks_ignored() -> Iterator[None]:
    """Survive newcomers: the kernel tells a lease holder of them with SIGIO, which would end the process."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGIO, before)


@contextmanager
def sigterm_deferred() -> Iterator[Callable[[], bool]]:
    """Yield what tells whether SIGTERM came, so that a run can end between two deletions and log them all.

    A handler of the caller's hears of the signal after the block: it may have come too late for the block to
    see it. One that would end the process is delivered only if the block ends with an error, since what a
    whole run did has yet to be told.
    """
    came = False

    def remember(_number: int, _frame: object) -> None:
        nonlocal came
        came = True

    before = signal.signal(signal.SIGTERM, remember)
    whole = False
    try:
        yield lambda: came
        whole = True
    finally:
        signal.signal(signal.SIGTERM, before)
        if came and (callable(before) or not whole):
            signal.raise_signal(signal.SIGTERM)
