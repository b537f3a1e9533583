"""A hub whose CDN is slow: a fault for `RunningHub`, to have a download that lasts."""

import asyncio
import contextlib
import re
import secrets
from pathlib import Path

from aiohttp import web
from tests.integration.models_support import RunningHub

#: Short enough for a handler to notice that its client has gone while the hub shuts down.
_PIECE_SECONDS = 0.02


def large_file(hub_folder: Path, name: str, size: int) -> None:
    """Put `size` random bytes in the hub's folder under owner/name/path, before the hub starts."""
    path = hub_folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(secrets.token_bytes(size))


class Pace:
    """Serves the CDN's files at `bytes_per_second` in all, over however many connections; may be changed."""

    def __init__(self, hub: RunningHub, bytes_per_second: float) -> None:
        self.bytes_per_second = bytes_per_second
        self._hub = hub
        self._turn = asyncio.Lock()

    async def __call__(self, request: web.Request) -> web.StreamResponse | None:
        if request.method != "GET" or not request.path.startswith("/cdn/"):
            return None
        owner, name, _, path = request.path.removeprefix("/cdn/").split("/", 3)
        entry = self._hub.repositories[f"{owner}/{name}"].files[path]
        content = entry.path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "bytes=0-"))
        assert asked
        first, last = int(asked[1]), int(asked[2] or len(content) - 1)
        headers = {"X-Linked-Etag": f'"{entry.etag}"', "Accept-Ranges": "bytes"}
        if "Range" in request.headers:
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        answer = web.StreamResponse(status=206 if "Range" in request.headers else 200, headers=headers)
        # The ETag that the hub's own answers have, so that a client sees one file and no change.
        stat = entry.path.stat()
        answer.etag = f"{stat.st_mtime_ns:x}-{stat.st_size:x}"
        answer.content_length = last + 1 - first
        with contextlib.suppress(ConnectionResetError):
            await answer.prepare(request)
            while first <= last:
                piece = content[first : min(first + int(self.bytes_per_second * _PIECE_SECONDS), last + 1)]
                first += len(piece)
                async with self._turn:
                    await asyncio.sleep(len(piece) / self.bytes_per_second)
                await answer.write(piece)
            await answer.write_eof()
        return answer
