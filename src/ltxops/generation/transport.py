"""HTTP and WebSocket requests to one service, with every way they can fail turned into one sentence.

Proxies from the environment are not used and redirects are not followed: a token goes to the service that
was named and nowhere else.
"""

import asyncio
import json
import uuid
from collections.abc import Container, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import aiohttp

from ltxops.errors import AccessDenied, BadInput, CheckFailed

#: An open WebSocket that decodes text messages.
Socket: TypeAlias = "aiohttp.ClientWebSocketResponse[bool]"

_CHUNK_BYTES = 1 << 20
_MESSAGE_BYTES = 64 << 20
#: How much of an unexpected answer a message shows.
_SHOWN_CHARACTERS = 200


class ServiceDown(CheckFailed):
    """The service cannot be reached, does not answer in time, or stands behind a gateway that says so."""


class Transport:
    """A session with one service. `timeout_seconds` bounds a request, or each silence of a download."""

    def __init__(self, base_url: str, *, token: str | None, timeout_seconds: float) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise BadInput(f"{base_url!r} is not the URL of a service; write it as http://HOST:PORT")
        if parts.username or parts.password:
            raise BadInput("the URL of the service carries a user name or password; give a token instead")
        self.base_url = base_url.rstrip("/")
        self._token = token
        self._timeout_seconds = timeout_seconds
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Transport":
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self._token}"} if self._token else None,
            timeout=aiohttp.ClientTimeout(total=self._timeout_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | aiohttp.FormData | None = None,
        *,
        allow: Container[int] = (),
    ) -> tuple[int, str]:
        """Return status and text of an answer that is 200, or whose status is in `allow`."""
        url = self.base_url + path
        form = body if isinstance(body, aiohttp.FormData) else None
        try:
            async with self._opened().request(
                method, url, json=None if form else body, data=form, allow_redirects=False
            ) as response:
                text = await response.text(errors="replace")
                self._check(response.status, url, text, allow)
                return response.status, text
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise ServiceDown(f"{url} cannot be reached: {self._reason(error)}") from error

    async def json(
        self, method: str, path: str, body: Mapping[str, Any] | aiohttp.FormData | None = None
    ) -> dict[str, Any]:
        """Return the JSON object that a request is answered with."""
        _, text = await self.request(method, path, body)
        return self.decode(text, path)

    def decode(self, text: str, path: str) -> dict[str, Any]:
        """Return the JSON object in `text`. Raises CheckFailed when it is something else."""
        answer = decode_leniently(text)
        if answer is None:
            raise CheckFailed(f"{self.base_url}{path} did not answer with a JSON object; is that ComfyUI?")
        return answer

    async def websocket(self, path: str) -> Socket:
        """Open a WebSocket."""
        url = self.base_url + path
        try:
            return await self._opened().ws_connect(url, max_msg_size=_MESSAGE_BYTES)
        except aiohttp.WSServerHandshakeError as error:
            self._check(error.status, url, "", ())
            raise CheckFailed(f"{url} does not speak WebSocket: {error.message}") from error
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise ServiceDown(f"{url} cannot be reached: {self._reason(error)}") from error

    async def download(self, path: str, query: Mapping[str, str], destination: Path) -> int:
        """Stream an answer to a file that appears under its name only when whole; returns its bytes."""
        url = self.base_url + path
        part = destination.with_name(f".{destination.name}.{uuid.uuid4().hex}.part")
        timeout = aiohttp.ClientTimeout(total=None, sock_read=self._timeout_seconds)
        size = 0
        try:
            async with self._opened().get(
                url, params=query, timeout=timeout, allow_redirects=False
            ) as response:
                self._check(response.status, url, "", ())
                with await asyncio.to_thread(part.open, "wb") as handle:
                    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                        size += await asyncio.to_thread(handle.write, chunk)
            await asyncio.to_thread(part.replace, destination)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise ServiceDown(f"the download from {url} broke off: {self._reason(error)}") from error
        finally:
            await asyncio.to_thread(part.unlink, missing_ok=True)
        return size

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the client is used outside its `async with` block")
        return self._session

    def _check(self, status: int, url: str, text: str, allow: Container[int]) -> None:
        if status == 401:
            given = "refused the token" if self._token else "needs a token and none was given"
            raise AccessDenied(f"{url} {given} (401); give the token of its gateway")
        if status == 403:
            raise AccessDenied(f"{url} is not open to this token (403)")
        if status in (200, 101) or status in allow:
            return
        if status in (502, 503, 504):
            raise ServiceDown(f"{url} answered {status}: its gateway is up, but ComfyUI behind it is not")
        shown = " ".join(text.split())[:_SHOWN_CHARACTERS]
        raise CheckFailed(f"{url} answered {status}" + (f": {shown}" if shown else ""))

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, asyncio.TimeoutError):
            return f"no answer within {self._timeout_seconds:g} s"
        if isinstance(error, aiohttp.ClientConnectorError):
            return error.os_error.strerror or str(error.os_error)
        return str(error) or type(error).__name__


def decode_leniently(text: str) -> dict[str, Any] | None:
    """Return the JSON object in `text`, or None."""
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None
