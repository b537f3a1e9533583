"""ComfyUI's guard against web pages of other sites that post to a server on this machine."""

import ipaddress
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def is_foreign(host: str | None, origin: str | None, fetch_site: str | None) -> bool:
    """True when a browser says that another site asks, or `Origin` is not the loopback `Host` asked for.

    As in ComfyUI, ports count only where both sides name one. A gateway in front must therefore not pass on
    the `Origin` of its own public name with a loopback `Host`.
    """
    if fetch_site == "cross-site":
        return True
    if not host or not origin:
        return False
    here, there = urlsplit(f"//{host.lower()}"), urlsplit(origin.lower())
    if not here.hostname or not there.hostname or not _is_loopback(here.hostname):
        return False
    if here.hostname != there.hostname:
        return True
    return here.port is not None and there.port is not None and here.port != there.port


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


@web.middleware
async def refuse_foreign(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 403 to such a request."""
    headers = request.headers
    if is_foreign(headers.get("Host"), headers.get("Origin"), headers.get("Sec-Fetch-Site")):
        return web.Response(status=403)
    return await handler(request)
