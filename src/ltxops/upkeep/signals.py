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

    Whoever leaves the block without an error has to ask that; with one, the signal is delivered afterwards.
    """
    came = False

    def remember(_number: int, _frame: object) -> None:
        nonlocal came
        came = True

    before = signal.signal(signal.SIGTERM, remember)
    try:
        yield lambda: came
    except BaseException:
        signal.signal(signal.SIGTERM, before)
        if came:
            signal.raise_signal(signal.SIGTERM)
        raise
    signal.signal(signal.SIGTERM, before)
