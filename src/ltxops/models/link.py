"""What lies behind a link: its first bytes, or all of them; never by a way on which they could be changed."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import httpx2

from ltxops import __version__
from ltxops.errors import AccessDenied, BadInput, NetworkError
from ltxops.models import retry
from ltxops.models.addresses import is_loopback, shown
from ltxops.models.retry import PASSING_STATUS, Passing, asked_wait_seconds

Result = TypeVar("Result")

_ATTEMPTS = 4
_BACKOFF_SECONDS = 0.5
_CHUNK_BYTES = 1024 * 1024
_REDIRECTS = 5
_TIMEOUT = httpx2.Timeout(30.0, connect=10.0)


@dataclass(frozen=True)
class Start:
    """The first bytes behind a link, the size (bytes) of all of it, and the file name that it was given."""

    data: bytes
    size: int
    name: str | None


def read_start(url: str, count: int, headers: dict[str, str] | None = None) -> Start:
    """Return the first `count` bytes behind `url`, or all when there are fewer, without fetching the rest.

    Raises AccessDenied, BadInput, NetworkError.
    """

    def attempt() -> Start:
        wanted = {"range": f"bytes=0-{count - 1}"} | (headers or {})
        with answer(url, wanted) as response:
            size = total(response)
            if size is None:
                raise BadInput(
                    f"{shown(url)}: the server does not say how large the file is; download it "
                    "yourself and add it by its path"
                )
            data = bytearray()
            for chunk in response.iter_raw(_CHUNK_BYTES):
                data += chunk
                if len(data) >= count:
                    break
            return Start(bytes(data[:count]), size, _file_name(response))

    return retried(url, attempt)


@contextlib.contextmanager
def answer(url: str, headers: dict[str, str]) -> Iterator[httpx2.Response]:
    """Ask for `url` and follow a few redirects, none of them to plain HTTP on a network.

    Raises Passing, AccessDenied, BadInput, NetworkError.
    """
    agent = {"user-agent": f"ltxops/{__version__}", "accept-encoding": "identity"}
    with httpx2.Client(timeout=_TIMEOUT, follow_redirects=False) as client:
        request = client.build_request("GET", url, headers=agent | headers)
        for _ in range(_REDIRECTS + 1):
            response = client.send(request, stream=True)
            try:
                if response.next_request is None:
                    _refuse_status(url, response)
                    yield response
                    return
                request = _safe(url, response.next_request)
            finally:
                response.close()
    raise NetworkError(f"{shown(url)} redirects more than {_REDIRECTS} times")


def _safe(url: str, request: httpx2.Request) -> httpx2.Request:
    started, next_url = httpx2.URL(url), request.url
    if next_url.scheme == "https":
        return request
    # Who chose plain http, for a hub of the own network or a server on this machine, stays where that was.
    if started.scheme == "http" and (is_loopback(next_url.host) or not is_loopback(started.host)):
        return request
    raise BadInput(f"{shown(url)} redirects to plain http ({shown(str(request.url))}), which is not followed")


def _refuse_status(url: str, response: httpx2.Response) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    if status in PASSING_STATUS:
        asked = asked_wait_seconds(response.headers.get("retry-after"))
        raise Passing(f"it answered {status}", asked)
    if status in (401, 403):
        raise AccessDenied(
            f"{shown(url)} answered {status}: it wants an account; download the file yourself and add it by "
            "its path"
        )
    if status in (404, 410):
        raise BadInput(f"{shown(url)} answered {status}: there is no such file (any more)")
    raise NetworkError(f"{shown(url)} answered {status}")


def total(response: httpx2.Response) -> int | None:
    """Return the size of the whole file, as far as the server tells."""
    if response.status_code == 206:
        text = response.headers.get("content-range", "").rpartition("/")[2]
    else:
        text = response.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def first(response: httpx2.Response) -> int | None:
    """Return the position of the first byte of a partial answer."""
    text = response.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
    return int(text) if text.isascii() and text.isdigit() else None


def _file_name(response: httpx2.Response) -> str | None:
    """Return the name in Content-Disposition, where there is a plain one."""
    for field in response.headers.get("content-disposition", "").split(";"):
        key, _, value = field.strip().partition("=")
        if key.lower() == "filename":
            return value.strip('"').rsplit("/", 1)[-1].rsplit("\\", 1)[-1] or None
    return None


def retried(url: str, call: Callable[[], Result], progress: Callable[[], int] = lambda: 0) -> Result:
    """Run `call` until it works, a few times at most without `progress` in between.

    Raises NetworkError, and what `call` raises but Passing.
    """

    def attempt() -> Result:
        try:
            return call()
        except httpx2.RequestError as error:
            raise Passing(str(error) or type(error).__name__) from error

    try:
        return retry.retried(
            attempt, attempts=_ATTEMPTS, first_wait_seconds=_BACKOFF_SECONDS, progress=progress
        )
    except Passing as last:
        raise NetworkError(
            f"{shown(url)} could not be had in {_ATTEMPTS} attempts ({last}); run again later: what has "
            "arrived is kept"
        ) from last
