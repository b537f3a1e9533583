"""Whether a supervisord that is told to stop is waited for: a real socket, and who listens on it."""

import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugins.module_utils.ltxops_processes import listened_to, outlasted


@pytest.fixture
def path() -> Iterator[str]:
    # A Unix socket's name holds 107 bytes, and pytest's folders are long.
    with tempfile.TemporaryDirectory(prefix="ou-") as folder:
        yield f"{folder}/s.sock"


def listener(path: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(path)
    server.listen()
    return server


def test_without_a_listener_nothing_is_waited_for(path: str) -> None:
    assert not outlasted(path, 60)
    listener(path).close()  # as one that was killed: the socket stays
    assert Path(path).exists()
    assert not outlasted(path, 60)


def test_a_listener_that_stays_is_told_when_patience_ends(path: str) -> None:
    with listener(path):
        assert outlasted(path, 0.3)
    assert not listened_to(path)


def test_a_listener_that_stops_is_waited_for(path: str) -> None:
    seen = []

    def stop_at_the_third_call(server: socket.socket) -> None:
        with server:
            for _ in range(3):
                server.accept()[0].close()
                seen.append("call")

    stopping = threading.Thread(target=stop_at_the_third_call, args=(listener(path),), daemon=True)
    stopping.start()
    assert not outlasted(path, 60)
    stopping.join(15)
    assert len(seen) == 3
