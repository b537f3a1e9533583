"""Connections that go where they were allowed to: the address that is checked is the one connected to.

A name is looked up once a connection, each answer is checked, and only checked ones are handed on. The socket
is checked again right before it connects, which covers addresses that are written in the URL: HTTP clients do
not ask a resolver for those.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from ltxops.wrapper.delivery.addresses import AddressRefused, Network, check_address

#: Looks up host and port; returns (family, address) pairs. Raises OSError.
Lookup = Callable[[str, int], Awaitable[list[tuple[int, str]]]]

#: Lookups that hang must not take the threads that files and databases need.
_LOOKUP_THREADS = 8


class SystemLookup:
    """Looks names up as the host does, in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, "lookup")

    async def __call__(self, host: str, port: int) -> list[tuple[int, str]]:
        """Return the addresses of `host`."""
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        # A scope id would be part of the address text; such addresses are refused as link-local.
        return [(family, str(address[0])) for family, _, _, _, address in found]

    def close(self) -> None:
        """Take no more lookups; those that hang are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class CheckedResolver(AbstractResolver):
    """Hands out only the addresses of a name that may be called."""

    def __init__(self, lookup: Lookup, allowed: Sequence[Network]) -> None:
        self._lookup = lookup
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the checked addresses of `host`; raises AddressRefused when none is left."""
        results: list[ResolveResult] = []
        refused: AddressRefused | None = None
        for found_family, address in await self._lookup(host, port):
            if family not in (socket.AF_UNSPEC, found_family):
                continue
            try:
                check_address(address, self._allowed)
            except AddressRefused as error:
                refused = error
                continue
            results.append(
                ResolveResult(
                    hostname=host,
                    host=address,
                    port=port,
                    family=found_family,
                    proto=socket.IPPROTO_TCP,
                    flags=socket.AI_NUMERICHOST,
                )
            )
        if not results:
            raise refused or OSError(f"the name {host} has no address")
        return results

    async def close(self) -> None:
        """Nothing is held."""


def connector_arguments(lookup: Lookup, allowed: Sequence[Network]) -> dict[str, Any]:
    """Return the arguments that make an aiohttp connector call only what may be called."""

    def checked_socket(target: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = target
        check_address(str(address[0]), allowed)
        return socket.socket(family, kind, protocol)

    return {
        "resolver": CheckedResolver(lookup, allowed),
        "socket_factory": checked_socket,
        "use_dns_cache": False,
        "force_close": True,
    }


def open_session(
    lookup: Lookup, allowed: Sequence[Network] | None, timeout: aiohttp.ClientTimeout, user_agent: str
) -> aiohttp.ClientSession:
    """Return a session without cookies and proxies.

    `allowed` None connects anywhere: for URLs of the operator.
    """
    checks = {"force_close": True} if allowed is None else connector_arguments(lookup, allowed)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(**checks),
        timeout=timeout,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        headers={"User-Agent": user_agent, "Accept-Encoding": "identity"},
    )


def why(error: BaseException, limit_seconds: float) -> str:
    """Return the reason of a failed request in a few words, without its URL."""
    if isinstance(error, asyncio.TimeoutError):
        return f"no whole answer within {limit_seconds:g} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or str(error.os_error) or type(error.os_error).__name__
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.ServerDisconnectedError):
        return f"the connection broke or the answer is no HTTP ({type(error).__name__})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
