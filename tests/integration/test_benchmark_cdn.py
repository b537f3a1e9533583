"""The CDN of the download benchmark does to a plain HTTP client what the name of a fault says."""

import http.client
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from benchmarks import servers
from benchmarks.cdn import Behaviour, wanted_range

SIZE = 6_000_000
CONTENT = os.urandom(SIZE)
LINK = "/cdn/owner/name/commit/folder/file.bin?link=1"


class Client:
    """Connections to one running CDN."""

    def __init__(self, netloc: str) -> None:
        self._netloc = netloc
        self.connections: list[http.client.HTTPConnection] = []

    def connect(self) -> http.client.HTTPConnection:
        """Return a new connection."""
        self.connections.append(http.client.HTTPConnection(self._netloc, timeout=60))
        return self.connections[-1]

    def get(self, link: str = LINK, span: str | None = None) -> http.client.HTTPResponse:
        """Ask for a file or a range of it on a new connection."""
        return ask(self.connect(), link, span)


def ask(
    connection: http.client.HTTPConnection, link: str = LINK, span: str | None = None
) -> http.client.HTTPResponse:
    connection.request("GET", link, headers={"Range": f"bytes={span}"} if span else {})
    return connection.getresponse()


@contextmanager
def cdn(tmp_path: Path, behaviour: Behaviour | None = None) -> Iterator[Client]:
    path = tmp_path / "served/owner/name/folder/file.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    log = tmp_path / "cdn.log"
    with servers.cdn(tmp_path / "served", 0, behaviour or Behaviour(), log) as url:
        client = Client(urlsplit(url).netloc)
        yield client
        for connection in client.connections:
            connection.close()
    assert log.read_text() == ""


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, (0, 100)),
        ("bytes=10-19", (10, 20)),
        ("bytes=90-", (90, 100)),
        ("bytes=90-400", (90, 100)),
        ("bytes=-5", (95, 100)),
        ("bytes=100-", None),
        ("bytes=0-1,5-6", (0, 100)),
        ("bytes=-", (0, 100)),
    ],
)
def test_ranges_are_read_as_http_means_them(header: str | None, expected: tuple[int, int] | None) -> None:
    assert wanted_range(header, 100) == expected


def test_it_serves_ranges_on_one_connection(tmp_path: Path) -> None:
    with cdn(tmp_path) as client:
        connection = client.connect()
        for start in (0, 1000, SIZE - 10):
            answer = ask(connection, span=f"{start}-{start + 9}")
            assert (answer.status, answer.read()) == (206, CONTENT[start : start + 10])
            assert answer.headers["Content-Range"] == f"bytes {start}-{start + 9}/{SIZE}"
        whole = ask(connection)
        assert (whole.status, whole.read()) == (200, CONTENT)
        beyond = ask(connection, span=f"{SIZE}-")
        assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{SIZE}")


def test_only_what_lies_under_its_root_is_served(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    with cdn(tmp_path) as client:
        for path in ("/cdn/owner/name/commit/%2e%2e/%2e%2e/%2e%2e/secret", "/secret", "/cdn/a/b/c/none"):
            assert client.get(path).status == 404


def test_the_pace_is_that_of_a_connection_however_small_the_requests(tmp_path: Path) -> None:
    with cdn(tmp_path, Behaviour(pace_bytes=4_000_000)) as client:
        connection, begin = client.connect(), time.monotonic()
        for start in range(0, SIZE, 500_000):
            ask(connection, span=f"{start}-{start + 499_999}").read()
        # 1.5 s by the pace; the kernel lets a burst through first.
        assert time.monotonic() - begin > 1


def test_a_connection_is_cut_after_its_bytes_however_small_the_requests(tmp_path: Path) -> None:
    with cdn(tmp_path, Behaviour(cut_bytes=1_200_000)) as client:
        connection = client.connect()
        assert ask(connection, span="0-499999").read() == CONTENT[:500_000]
        assert ask(connection, span="500000-999999").read() == CONTENT[500_000:1_000_000]
        with pytest.raises(http.client.IncompleteRead) as cut:
            ask(connection, span="1000000-1499999").read()
        assert cut.value.partial == CONTENT[1_000_000:1_200_000]
        assert client.get(span="1200000-1999999").read() == CONTENT[1_200_000:2_000_000]


def test_a_flipped_byte_is_all_that_is_wrong(tmp_path: Path) -> None:
    with cdn(tmp_path, Behaviour(fault="flip")) as client:
        for start in (0, SIZE // 2 - 5, SIZE // 2):
            got = client.get(span=f"{start}-").read()
            differing = [start + index for index in range(len(got)) if got[index] != CONTENT[start + index]]
            assert (len(got), differing) == (SIZE - start, [SIZE // 2])


def test_a_short_cdn_promises_what_it_has(tmp_path: Path) -> None:
    with cdn(tmp_path, Behaviour(fault="short")) as client:
        got = client.get(span="0-").read()
        assert len(got) < SIZE and got == CONTENT[: len(got)]
        assert client.get(span=f"{len(got)}-").status == 416


def test_two_connections_are_reset_in_the_middle(tmp_path: Path) -> None:
    with cdn(tmp_path, Behaviour(fault="reset")) as client:
        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                client.get().read()
        assert client.get().read() == CONTENT


def test_two_requests_are_told_to_come_back(tmp_path: Path) -> None:
    with cdn(tmp_path, Behaviour(fault="503")) as client:
        answers = [client.get() for _ in range(3)]
        assert [answer.status for answer in answers] == [503, 503, 200]
        assert answers[0].headers["Retry-After"] == "1"


def test_a_link_dies_in_the_middle_and_a_new_one_goes_on(tmp_path: Path) -> None:
    with cdn(tmp_path, Behaviour(fault="expired")) as client:
        got = b""
        for link in range(1, 4):
            with pytest.raises(http.client.IncompleteRead) if link < 3 else _nothing() as cut:
                got += client.get(f"{LINK}{link}", span=f"{len(got)}-").read()
            if cut is not None:
                got += cut.value.partial
                assert client.get(f"{LINK}{link}").status == 403
        assert got == CONTENT


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


def test_an_ignored_range_gets_the_whole_file(tmp_path: Path) -> None:
    with cdn(tmp_path, Behaviour(fault="ignored-range")) as client:
        answer = client.get(span="1000-1999")
        assert (answer.status, answer.read()) == (200, CONTENT)


def test_the_first_connection_stalls_and_the_next_does_not(tmp_path: Path) -> None:
    with cdn(tmp_path, Behaviour(fault="stall")) as client:
        connection = client.connect()
        stalled = ask(connection)
        connection.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            stalled.read()
        assert client.get().read() == CONTENT
