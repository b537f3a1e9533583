"""What tests of every kind need: ports that are free, and waiting for something to happen."""

import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.error import URLError

Found = TypeVar("Found")


def _ports() -> Iterator[int]:
    """Ports below those that Linux gives to outgoing connections, each test process its own, and then again.

    A port of the kernel's choice (bind to 0) can be gone before a server that is started binds it: to another
    test process, or as the near end of any connection.
    """
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = range(20_000 + process % 8 * 1_500, 20_000 + (process % 8 + 1) * 1_500)
    # Another run of the tests beside this one begins elsewhere.
    return itertools.islice(itertools.cycle(own), os.getpid() % len(own), None)


_candidates = _ports()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 in a row that nobody listens on."""
    ports: list[int] = []
    while len(ports) < count:
        port = next(_candidates)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                ports = []
                continue
        if ports and port != ports[-1] + 1:
            ports = []
        ports.append(port)
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
