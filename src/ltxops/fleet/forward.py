"""Carry TCP connections to a local port through SSH to an address on the other side.

Fabric has a `forward_local` of its own; it ends for good at the first connection that the other side refuses,
and cuts off an answer when the client has shut down its half.
"""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from paramiko.ssh_exception import ChannelException, SSHException

from ltxops.errors import CheckFailed

_BLOCK_BYTES = 65536
_OPEN_SECONDS = 15.0


@dataclass(frozen=True)
class Route:
    """Where a local port leads: to a program's address on the host. `option` chooses another port."""

    program: str
    local_port: int
    host: str
    port: int
    option: str


def listen(route: Route) -> socket.socket:
    """Listen on the route's local port, on loopback only. Raises CheckFailed if it is taken."""
    try:
        return socket.create_server(("127.0.0.1", route.local_port))
    except OSError as error:
        raise CheckFailed(
            f"port {route.local_port} of this machine cannot be used for {route.program} "
            f"({os.strerror(error.errno or 0)}): stop what uses it, or choose another one with {route.option}"
        ) from None


class Forwarder(threading.Thread):
    """Accepts connections as long as the socket is open, and carries them by the transport of the moment."""

    def __init__(
        self, route: Route, server: socket.socket, transport: Callable[[], Any], say: Callable[[str], None]
    ) -> None:
        super().__init__(name=f"tunnel to {route.program}", daemon=True)
        self._route = route
        self._server = server
        self._transport = transport
        self._say = say

    def run(self) -> None:
        """Accept until the socket is closed."""
        while True:
            try:
                client, address = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client, address), daemon=True).start()

    def _carry(self, client: socket.socket, address: tuple[str, int]) -> None:
        route = self._route
        try:
            channel = self._transport().open_channel(
                "direct-tcpip", (route.host, route.port), address, timeout=_OPEN_SECONDS
            )
        except (ChannelException, SSHException, OSError, EOFError, AttributeError) as error:
            # AttributeError: there is no transport at the moment.
            reason = (
                error.text if isinstance(error, ChannelException) else "the connection to the host is lost"
            )
            self._say(
                f"{route.program}: {route.host}:{route.port} cannot be reached there ({reason.lower()})"
            )
            client.close()
            return
        back = threading.Thread(target=_pump, args=(channel, client), daemon=True)
        back.start()
        _pump(client, channel)
        back.join()
        client.close()
        with suppress(OSError, EOFError, SSHException):  # it says goodbye, to a host that may be gone
            channel.close()


def _pump(source: Any, sink: Any) -> None:
    """Copy until the end, then close that direction alone: the other one may have more to say."""
    with suppress(OSError, EOFError):
        while data := source.recv(_BLOCK_BYTES):
            sink.sendall(data)
    with suppress(OSError, EOFError):
        sink.shutdown(socket.SHUT_WR)
