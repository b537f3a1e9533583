"""What an HTTP answer to a range of a file is worth, judged from its head before a byte is written. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPMessage
from typing import TypeAlias

from ltxops.models.retry import PASSING_STATUS, asked_wait_seconds

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)\Z")
_LINK_REFUSED = frozenset({400, 401, 403, 404, 410})
REDIRECTS = frozenset({301, 302, 303, 307, 308})

#: The head of an answer; names are compared without case in the first.
Headers: TypeAlias = HTTPMessage | Mapping[str, str]


class PassingFault(Exception):
    """The server cannot answer now; `wait_seconds` is what it asked for, `busy` that it is asked too much."""

    def __init__(self, status: int, retry_after: str | None) -> None:
        super().__init__(f"answered {status}")
        self.status = status
        self.wait_seconds = asked_wait_seconds(retry_after)
        self.busy = status in (429, 503)


class LinkRefused(Exception):
    """The server that the hub sent us to does not give the file, or no longer: the link has expired."""


class Unlike(Exception):
    """What the server has is not what was promised, or not what it had before."""


@dataclass(frozen=True)
class Body:
    """What an answer brings: the bytes from `start` to `end`; `whole` when a range was asked and ignored.

    `version` is the server's name for this version of the content (its ETag), None when it gives none.
    """

    start: int
    end: int
    whole: bool
    version: str | None


def judge(status: int, headers: Headers, *, path: str, size: int, start: int, end: int) -> Body:
    """Judge the answer to a request for the bytes from `start` to `end` of a file of `size` bytes.

    Raises PassingFault, LinkRefused, Unlike.
    """
    if status in PASSING_STATUS:
        raise PassingFault(status, headers.get("Retry-After"))
    if status in _LINK_REFUSED:
        raise LinkRefused(f"answered {status}")
    if status == 416:
        raise Unlike(f"says that the file has no bytes from {start} on (416)")
    if status not in (200, 206):
        raise Unlike(f"answered {status}")
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Unlike(f"sends the file encoded ({headers.get('Content-Encoding')})")
    kind = headers.get("Content-Type", "").split(";")[0].strip().lower()
    if kind == "text/html" and not path.endswith((".html", ".htm")):
        raise Unlike("sends an HTML page in place of the file")
    version = headers.get("ETag")
    if status == 206:
        first, last = _content_range(headers.get("Content-Range", ""), size)
        if first != start or not start <= last < end:
            raise Unlike(f"sends bytes {first} to {last} where {start} to {end - 1} were asked")
        return Body(start, last + 1, False, version)
    length = headers.get("Content-Length")
    if length is not None and length.strip() != str(size):
        raise Unlike(f"promises {length} bytes where the hub promised {size}")
    return Body(0, size, (start, end) != (0, size), version)


def _content_range(text: str, size: int) -> tuple[int, int]:
    match = _CONTENT_RANGE.match(text.strip())
    if match is None:
        raise Unlike(f"sends a part of the file but not which (Content-Range '{text[:80]}')")
    if match[3] != "*" and int(match[3]) != size:
        raise Unlike(f"promises {match[3]} bytes where the hub promised {size}")
    return int(match[1]), int(match[2])


def linked_problem(headers: Headers, size: int, sha256: str | None) -> str | None:
    """Say how the hub's own word on a file (at its redirect) differs from what the lock promised."""
    linked = headers.get("X-Linked-Size", "")
    if linked.isascii() and linked.isdigit() and int(linked) != size:
        return f"has {linked} bytes, promised were {size}"
    etag = headers.get("X-Linked-Etag", "").strip('"')
    if sha256 is not None and re.fullmatch("[0-9a-f]{64}", etag) and etag != sha256:
        return f"has sha256 {etag}, promised was {sha256}"
    return None
