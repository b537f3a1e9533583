"""HTTP connections that are kept open between requests, through a proxy where the environment names one.

The standard library's client rather than a richer one: it reads into a buffer that is used again and again,
and waits for bytes without holding the interpreter, which is what lets threads share it.
"""

import contextlib
import socket
import ssl
import threading
from base64 import b64encode
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse, HTTPSConnection
from typing import NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

_CONNECT_SECONDS = 15.0
_WORTH_READING_BYTES = 16 * 1024
_URL_SAFE = "/?%:=&~+!$,;'@()*[]"


class Origin(NamedTuple):
    """Scheme, host and port: whoever they are the same for is the same server."""

    scheme: str
    host: str
    port: int


class ConnectionLost(Exception):
    """The connection could not be made, broke off, or brought no byte for too long."""


def origin_of(url: str) -> Origin:
    """Return the origin of an http or https URL. Raises ConnectionLost for another one."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConnectionLost(f"{url.split('?')[0]} is no URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConnectionLost(f"{url.split('?')[0]} is no http or https URL")
    return Origin(parts.scheme, parts.hostname.lower(), port or (443 if parts.scheme == "https" else 80))


def join(url: str, location: str) -> str:
    """Return the URL that a redirect from `url` leads to."""
    return urljoin(url, location)


class Answer:
    """The answer to one request: its head, and its body for reading into a buffer."""

    def __init__(self, url: str, response: HTTPResponse) -> None:
        self.url = url
        self.status = response.status
        self.headers: HTTPMessage = response.headers
        self._response = response
        self._broken = False
        #: Bytes of the body that are still to come; None when the server does not tell.
        self.left = response.length if not response.chunked else None

    def read_into(self, buffer: memoryview) -> int:
        """Read what has come of the body, as far as it fits; 0 at its end. Raises ConnectionLost."""
        try:
            if self.left is None:
                return self._response.readinto(buffer)
            if not self.left:
                return 0
            # Past the response, whose own readinto waits until the buffer is full.
            count: int = self._response.fp.readinto1(buffer[: self.left])
        except (OSError, HTTPException, ValueError) as error:
            self._broken = True
            raise ConnectionLost(_reason(error)) from error
        if not count:
            self._broken = True
            raise ConnectionLost(f"the connection ended {self.left} bytes before the end")
        self.left -= count
        return count

    def close(self) -> None:
        """End the answer. Its connection can be used again when the body was read to its end.

        A short rest, such as the text of a redirect, is read: that costs less than another connection.
        """
        with contextlib.suppress(ConnectionLost):
            rest = memoryview(bytearray(_WORTH_READING_BYTES))
            while not self._broken and self.left and self.left <= _WORTH_READING_BYTES:
                self.read_into(rest)
        with contextlib.suppress(OSError, ValueError):
            self._response.close()


class Lines:
    """The connections of one thread, one to each origin. `hang_up` may be called by another thread.

    `stall_seconds` is how long a server may stay silent.
    """

    def __init__(self, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._guard = threading.Lock()
        self._open: dict[Origin, tuple[HTTPConnection, socket.socket]] = {}
        self._hung_up = False
        #: The proxy of each origin: the environment is long, and is asked once.
        self._proxies: dict[Origin, str | None] = {}
        self._last: tuple[Origin, Answer] | None = None
        #: The URL that was asked for last.
        self.last_url = ""

    def get(self, url: str, headers: dict[str, str]) -> Answer:
        """Ask for `url`, without following a redirect. Raises ConnectionLost.

        The answer before this one has to be done with: what was not read of it is thrown away.
        """
        self.settle()
        self.last_url = url
        origin = origin_of(url)
        kept = self._open.get(origin)
        if kept is not None:
            try:
                return self._ask(origin, kept[0], url, headers)
            except ConnectionError:
                # Servers close connections that were idle, which shows only at the next request.
                self._drop(origin)
            except (OSError, HTTPException) as error:
                self._drop(origin)
                raise ConnectionLost(f"{origin.host}:{origin.port}: {_reason(error)}") from error
        try:
            return self._ask(origin, self._connect(origin), url, headers)
        except (OSError, HTTPException) as error:
            self._drop(origin)
            raise ConnectionLost(f"{origin.host}:{origin.port}: {_reason(error)}") from error

    def settle(self) -> None:
        """End the last answer, and its connection with it unless its body was read to the end."""
        if self._last is not None:
            origin, answer = self._last
            self._last = None
            answer.close()
            kept = self._open.get(origin)
            if answer.left != 0 or kept is None or kept[0].sock is None:
                self._drop(origin)

    def hang_up(self) -> None:
        """Break all connections off, so that a thread that waits for one goes on with ConnectionLost."""
        with self._guard:
            self._hung_up = True
            for _, open_socket in self._open.values():
                with contextlib.suppress(OSError):
                    # Not SSLSocket's own, after which a reader would take what is still encrypted for data.
                    socket.socket.shutdown(open_socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close all connections."""
        self.settle()
        for origin in list(self._open):
            self._drop(origin)

    def _ask(self, origin: Origin, connection: HTTPConnection, url: str, headers: dict[str, str]) -> Answer:
        parts = urlsplit(url)
        target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_URL_SAFE)
        proxy = self._proxy_of(origin)
        if proxy and origin.scheme == "http":
            target = f"http://{parts.netloc.rpartition('@')[2]}{target}"
            headers = headers | _proxy_authorization(proxy)
        connection.request("GET", target, headers=headers)
        answer = Answer(url, connection.getresponse())
        self._last = (origin, answer)
        return answer

    def _connect(self, origin: Origin) -> HTTPConnection:
        connection = _new_connection(origin, self._proxy_of(origin))
        connection.connect()
        connection.sock.settimeout(self._stall_seconds)
        with self._guard:
            if self._hung_up:
                connection.close()
                raise OSError("stopped")
            self._open[origin] = (connection, connection.sock)
        return connection

    def _proxy_of(self, origin: Origin) -> str | None:
        if origin not in self._proxies:
            self._proxies[origin] = _proxy_of(origin)
        return self._proxies[origin]

    def _drop(self, origin: Origin) -> None:
        with self._guard:
            kept = self._open.pop(origin, None)
        if kept is not None:
            kept[0].close()


def _new_connection(origin: Origin, proxy: str | None) -> HTTPConnection:
    if proxy is None:
        if origin.scheme == "https":
            return HTTPSConnection(origin.host, origin.port, timeout=_CONNECT_SECONDS, context=_tls())
        return HTTPConnection(origin.host, origin.port, timeout=_CONNECT_SECONDS)
    address = origin_of(proxy)
    if origin.scheme == "http":
        return HTTPConnection(address.host, address.port, timeout=_CONNECT_SECONDS)
    tunnel = HTTPSConnection(address.host, address.port, timeout=_CONNECT_SECONDS, context=_tls())
    tunnel.set_tunnel(origin.host, origin.port, _proxy_authorization(proxy))
    return tunnel


def _proxy_of(origin: Origin) -> str | None:
    """Return the proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY name for a server."""
    if proxy_bypass(f"{origin.host}:{origin.port}"):
        return None
    proxies = getproxies()
    proxy = proxies.get(origin.scheme) or proxies.get("all")
    if not proxy:
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _proxy_authorization(proxy: str) -> dict[str, str]:
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    account = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(account.encode()).decode()}"}


_tls_guard = threading.Lock()
_tls_context: ssl.SSLContext | None = None


def _tls() -> ssl.SSLContext:
    """Return the context all connections share: the system's authorities, or those of SSL_CERT_FILE."""
    global _tls_context
    with _tls_guard:
        if _tls_context is None:
            _tls_context = ssl.create_default_context()
        return _tls_context


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no byte came for too long"
    return str(error) or type(error).__name__
