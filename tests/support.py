"""What tests of every kind need: ports that are free, and waiting for something to happen."""

import socket
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.error import URLError

Found = TypeVar("Found")


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return different ports of 127.0.0.1 that nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def wait_for(
    condition: Callable[[], Found | None],
    seconds: float = 60.0,
    told: Callable[[], str] = lambda: "it did not happen in time",
) -> Found:
    """Return the first true value of `condition`; a server that does not answer yet is none.

    Fails after `seconds` with what `told` says then.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := condition():
                return found
        except (URLError, ConnectionError):
            pass
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)
