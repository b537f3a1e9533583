"""Bringing a file that no hub describes: from a link, or from a file at hand.

Whatever comes is bounded by the size promised and hashed; a part that an earlier run left is continued.
"""

import contextlib
import errno
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import httpx2

from ltxops import __version__
from ltxops.errors import AccessDenied, BadInput, CheckFailed, DiskFull, IntegrityError, NetworkError
from ltxops.models.addresses import is_loopback, shown
from ltxops.models.plan import Wanted
from ltxops.models.proof import Digest
from ltxops.units import format_bytes

Result = TypeVar("Result")
#: Told the bytes as they come; less than 0 when some have to come again.
Arrived = Callable[[int], None]

_ATTEMPTS = 4
_BACKOFF_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 60.0
_CHUNK_BYTES = 1024 * 1024
_REDIRECTS = 5
_TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class _Passing(Exception):
    """A failure that may be gone at the next try; `wait_seconds` is what the server asked for."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


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
        with _answer(url, wanted) as response:
            size = _total(response)
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

    return _retried(url, attempt, lambda: 0)


def bring(wanted: Wanted, part: Path, arrived: Arrived) -> Digest:
    """Bring a file to `part`, proven and synced to disk; return its digest.

    A hash that is not promised is not compared, only told. Raises IntegrityError (with nothing left at
    `part`), CheckFailed when a file at hand is not there, DiskFull, and what `read_start` raises (with what
    has arrived left for the next run).
    """
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "r+b", buffering=0) as stream:
            digest = _Sink(wanted, stream, arrived).fill()
            os.fsync(stream.fileno())
            return digest
    except IntegrityError:
        part.unlink(missing_ok=True)
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"the disk of {part.parent} filled up while {wanted.dest} arrived "
                f"({format_bytes(wanted.file.size)}); free some space and run again: finished files are intact"
            ) from error
        raise


class _Sink:
    """One part file that is being filled; all that is in it has been hashed."""

    def __init__(self, wanted: Wanted, stream: BinaryIO, arrived: Arrived) -> None:
        self._wanted, self._stream, self._arrived = wanted, stream, arrived
        self._digest = Digest(wanted.file)
        while self._digest.size < wanted.file.size and (chunk := stream.read(_CHUNK_BYTES)):
            self._digest.update(chunk[: wanted.file.size - self._digest.size])
        stream.seek(self._digest.size)
        stream.truncate()

    def fill(self) -> Digest:
        resumed = self._digest.size > 0
        self._fetch()
        if resumed and self._digest.mismatch():
            # The beginning came from an earlier run, so it may be that which is bad.
            self._restart()
            self._fetch()
        if problem := self._digest.mismatch():
            raise IntegrityError(
                f"{self._wanted.dest}: what came from {self._origin()} {problem}; it was thrown away: if it "
                "was replaced there on purpose, remove the entry and add it again"
            )
        return self._digest

    def _origin(self) -> str:
        return shown(self._wanted.url) if self._wanted.url else str(self._wanted.path)

    def _fetch(self) -> None:
        if self._wanted.url is not None:
            url = self._wanted.url
            _retried(url, lambda: self._download(url), lambda: self._digest.size)
        else:
            self._copy(Path(str(self._wanted.path)))

    def _copy(self, source: Path) -> None:
        try:
            with source.open("rb", buffering=0) as stream:
                stream.seek(self._digest.size)
                while chunk := stream.read(_CHUNK_BYTES):
                    self._take(chunk)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise CheckFailed(
                f"{self._wanted.dest} comes from {source} on the machine where it was added, which cannot be "
                f"read here ({error.strerror}); copy that file to its place under the root and run again"
            ) from error

    def _download(self, url: str) -> None:
        begin, size = self._digest.size, self._wanted.file.size
        if begin == size:
            return
        with _answer(url, {"range": f"bytes={begin}-"} if begin else {}) as response:
            if begin and (response.status_code != 206 or _first(response) != begin):
                self._restart()
                if response.status_code == 206:
                    raise _Passing("the server sent another range than was asked for")
            promised = _total(response)
            if promised is not None and promised != size:
                raise IntegrityError(
                    f"{self._wanted.dest}: {shown(url)} has {promised} bytes, promised were {size}"
                )
            for chunk in response.iter_raw(_CHUNK_BYTES):
                self._take(chunk)
        if self._digest.size < size:
            raise _Passing(f"the connection ended after {self._digest.size} of {size} bytes")

    def _take(self, chunk: bytes) -> None:
        if self._digest.size + len(chunk) > self._wanted.file.size:
            raise IntegrityError(
                f"{self._wanted.dest}: {self._origin()} has more than the {self._wanted.file.size} bytes promised"
            )
        self._stream.write(chunk)
        self._digest.update(chunk)
        self._arrived(len(chunk))

    def _restart(self) -> None:
        self._arrived(-self._digest.size)
        self._digest.restart()
        self._stream.seek(0)
        self._stream.truncate()


@contextlib.contextmanager
def _answer(url: str, headers: dict[str, str]) -> Iterator[httpx2.Response]:
    """Ask for `url` and follow a few redirects, none of them to where the bytes could be changed on the way."""
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
    started = httpx2.URL(url)
    chosen_plain = started.scheme == "http" and not is_loopback(started.host)
    if request.url.scheme == "https" or is_loopback(request.url.host) or chosen_plain:
        return request
    raise BadInput(f"{shown(url)} redirects to plain http ({shown(str(request.url))}), which is not followed")


def _refuse_status(url: str, response: httpx2.Response) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    if status in _PASSING_STATUS:
        asked = response.headers.get("retry-after", "")
        raise _Passing(f"it answered {status}", float(asked) if asked.isascii() and asked.isdigit() else None)
    if status in (401, 403):
        raise AccessDenied(
            f"{shown(url)} answered {status}: it wants an account; download the file yourself and add it by its path"
        )
    if status in (404, 410):
        raise BadInput(f"{shown(url)} answered {status}: there is no such file (any more)")
    raise NetworkError(f"{shown(url)} answered {status}")


def _total(response: httpx2.Response) -> int | None:
    """Return the size of the whole file, as far as the server tells."""
    if response.status_code == 206:
        text = response.headers.get("content-range", "").rpartition("/")[2]
    else:
        text = response.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _first(response: httpx2.Response) -> int | None:
    text = response.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
    return int(text) if text.isascii() and text.isdigit() else None


def _file_name(response: httpx2.Response) -> str | None:
    """Return the name in Content-Disposition, where there is a plain one."""
    for field in response.headers.get("content-disposition", "").split(";"):
        key, _, value = field.strip().partition("=")
        if key.lower() == "filename":
            return value.strip('"').rsplit("/", 1)[-1].rsplit("\\", 1)[-1] or None
    return None


def _retried(url: str, call: Callable[[], Result], progress: Callable[[], int]) -> Result:
    """Run `call` until it works, a few times at most without `progress` in between."""
    failures = 0
    while True:
        before = progress()
        try:
            return call()
        except (httpx2.RequestError, _Passing) as error:
            failures = 1 if progress() > before else failures + 1
            if failures >= _ATTEMPTS:
                reason = str(error) or type(error).__name__
                raise NetworkError(
                    f"{shown(url)} could not be had in {failures} attempts ({reason}); run again later: what has "
                    "arrived is kept"
                ) from error
            asked = error.wait_seconds if isinstance(error, _Passing) else None
            wait = (
                _BACKOFF_SECONDS * 2 ** (failures - 1) * random.uniform(0.75, 1.25)
                if asked is None
                else asked
            )
            time.sleep(min(wait, _LONGEST_WAIT_SECONDS))
