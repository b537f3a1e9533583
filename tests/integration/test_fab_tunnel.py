"""`fab tunnel` against a real sshd: what it carries, and what it says when it cannot."""

import http.client
import os
import socket
from collections.abc import Iterator

import pytest
from tests.integration.fleet_support import SERVER, Fleet, Running, free_port, until


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    one = Fleet(tmp_path_factory.mktemp("fleet"))
    one.supervise(one.add("gpu1"), [("comfyui", SERVER), ("wrapper", SERVER)])
    one.add("gpu2", running=False)
    yield one
    one.close()


class Ends:
    """The local ends of a tunnel."""

    def __init__(self) -> None:
        self.comfyui, self.wrapper = free_port(), free_port()

    @property
    def words(self) -> list[str]:
        return ["--comfyui-port", str(self.comfyui), "--wrapper-port", str(self.wrapper)]


def get(port: int, path: str = "/") -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def answers(port: int) -> bytes:
    try:
        return get(port)
    except (OSError, http.client.HTTPException):
        return b""


def opened(running: Running, ends: Ends) -> None:
    running.shows(rf"http://127.0.0.1:{ends.comfyui} is comfyui of gpu1")
    running.shows(rf"http://127.0.0.1:{ends.wrapper} is wrapper of gpu1")
    until(lambda: answers(ends.comfyui), "comfyui runs")


def test_it_carries_http_until_ctrl_c(fleet: Fleet) -> None:
    ends = Ends()
    with fleet.running("tunnel", "--on", "gpu1", *ends.words) as running:
        opened(running, ends)
        assert get(ends.comfyui) == b"comfyui@gpu1 says hello"
        assert until(lambda: answers(ends.wrapper), "wrapper runs") == b"wrapper@gpu1 says hello"
        body = os.urandom(5_000_000)
        connection = http.client.HTTPConnection("127.0.0.1", ends.wrapper, timeout=30)
        connection.request("POST", "/", body)
        assert connection.getresponse().read() == body
        connection.close()
        # A client that has said all it has to say still gets the whole answer.
        with socket.create_connection(("127.0.0.1", ends.comfyui), 10) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            client.shutdown(socket.SHUT_WR)
            text = b""
            while data := client.recv(4096):
                text += data
        assert text.endswith(b"comfyui@gpu1 says hello")
        assert running.interrupt() == 0
        assert running.err.endswith("the tunnel is closed\n")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", ends.comfyui)) != 0


def test_a_lost_connection_is_made_anew(fleet: Fleet) -> None:  # R50
    ends = Ends()
    with fleet.running("tunnel", "--on", "gpu1", *ends.words) as running:
        opened(running, ends)
        assert fleet.hosts["gpu1"].drop_sessions() > 0
        running.shows("gpu1: the connection was lost; trying again in 1 s")
        running.shows("gpu1: connected again")
        assert get(ends.comfyui) == b"comfyui@gpu1 says hello"
        assert running.interrupt() == 0
    with fleet.running("tunnel", "--on", "gpu1", "--reconnect", "0", *ends.words) as running:
        opened(running, ends)
        assert fleet.hosts["gpu1"].drop_sessions() > 0
        assert running.ended() == 5
        assert running.err.endswith("fab: gpu1: the connection was lost; given up after 0 s\n")


def test_a_program_that_does_not_listen_is_told_and_does_not_end_it(fleet: Fleet) -> None:
    host = fleet.hosts["gpu1"]
    wrapper = next(program for program in host.programs if program["name"] == "wrapper")
    kept = (host.folder / "etc/host.json").read_text()
    dead = free_port()
    (host.folder / "etc/host.json").write_text(kept.replace(wrapper["address"], f"127.0.0.1:{dead}"))
    ends = Ends()
    try:
        with fleet.running("tunnel", "--on", "gpu1", *ends.words) as running:
            opened(running, ends)
            with pytest.raises((OSError, http.client.HTTPException)):
                get(ends.wrapper)
            running.shows(rf"wrapper: 127.0.0.1:{dead} cannot be reached there \(connect")
            assert get(ends.comfyui) == b"comfyui@gpu1 says hello"
            assert running.interrupt() == 0
    finally:
        (host.folder / "etc/host.json").write_text(kept)


def test_a_port_that_is_taken_is_named(fleet: Fleet) -> None:
    ends = Ends()
    with socket.create_server(("127.0.0.1", ends.wrapper)):
        code, out, errors = fleet.fab("tunnel", "--on", "gpu1", *ends.words)
    assert (code, out) == (1, "")
    assert errors == (
        f"fab: port {ends.wrapper} of this machine cannot be used for wrapper (Address already in use): stop "
        "what uses it, or choose another one with --wrapper-port\n"
    )


def test_it_leads_to_one_host_only(fleet: Fleet) -> None:
    code, _, errors = fleet.fab("tunnel")
    assert (code, errors) == (2, "fab: a tunnel leads to one host: choose one of gpu1, gpu2 with --on\n")
    code, _, errors = fleet.fab("tunnel", "--on", "gpu1", "--comfyui-port", "0")
    assert (code, errors) == (2, "fab: --comfyui-port is '0': give a whole number from 1 to 65535\n")
    code, _, errors = fleet.fab("tunnel", "--on", "gpu2")
    assert code == 5
    assert errors.startswith("fab: gpu2: no SSH connection to ")
