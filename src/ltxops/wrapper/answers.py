"""Bodies, in and out: read within bounds, written as JSON that every client can read."""

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from ltxops.wrapper.refusals import Refused

#: Bodies up to this many bytes beyond the limit are read to their end before they are refused: an answer to a
#: client that is still sending is lost with the connection.
DRAIN_BYTES = 64 * 2**20
#: All bodies that are being read and checked at a time may take this many times the limit of one.
BODIES_AT_ONCE = 4


class StrictJSON(JSONResponse):
    """JSON that every client can read, whatever ComfyUI and the request had in them.

    ComfyUI writes NaN (a node's IS_CHANGED) and half surrogate pairs as Python does: the first becomes null,
    the second stays escaped.
    """

    def render(self, content: Any) -> bytes:
        """Return `content` as ASCII."""
        return strict_json(content)


def strict_json(content: Any) -> bytes:
    """Return `content` as JSON in ASCII, on one line."""
    try:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        return json.dumps(_finite(content), separators=(",", ":")).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Bodies:
    """Reads request bodies of at most `limit` bytes each, and a few times that together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Give the body of a request inside the block.

        Raises Refused: 413 when it is too large, 503 when too much else is being read (both read on without
        keeping it, so that the answer reaches the client), 400 when it breaks off.
        """
        most = self._limit + DRAIN_BYTES
        announced = request.headers.get("content-length", "")
        announced_bytes = int(announced) if announced.isdecimal() else 0
        if announced_bytes > most or (announced_bytes > self._limit and "expect" in request.headers):
            raise self._too_large()
        chunks: list[bytes] = []
        size = held = 0
        refused: Refused | None = None
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if size > self._limit:
                    refused = self._too_large()
                elif self._held + len(chunk) > BODIES_AT_ONCE * self._limit:
                    refused = refused or Refused(
                        503, "busy", "too many large requests at once; try again later"
                    )
                if size > most:
                    break
                if refused is None:
                    held += len(chunk)
                    self._held += len(chunk)
                    chunks.append(chunk)
                elif chunks:
                    self._held, held = self._held - held, 0
                    chunks.clear()
            if refused is not None:
                raise refused
            yield b"".join(chunks)
        except ClientDisconnect:
            raise Refused(
                400, "incomplete_body", "the connection closed before the whole body was there"
            ) from None
        finally:
            self._held -= held

    def _too_large(self) -> Refused:
        return Refused(
            413, "body_too_large", f"the body has more than {self._limit} bytes, which is the limit"
        )
