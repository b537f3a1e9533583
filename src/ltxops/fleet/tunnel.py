"""Reach a host's ComfyUI and API wrapper, which listen on its loopback only, on local ports."""

import json
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ltxops.errors import BadInput, CheckFailed, LtxopsError, NetworkError
from ltxops.fleet.connect import Access
from ltxops.fleet.forward import Forwarder, Route, listen
from ltxops.fleet.inventory import Target
from ltxops.fleet.machine import Ssh, explain
from ltxops.fleet.retry import Retry
from ltxops.upkeep import host as host_description

_ANSWER_SECONDS = 30.0
_LOOK_SECONDS = 0.5
#: A program that listens on every address is asked on loopback.
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1"}


def routes(
    description: host_description.Host, local_ports: Mapping[str, int], options: Mapping[str, str]
) -> list[Route]:
    """Return a route for each program of `local_ports`, to where the host's description says that it listens.

    Raises CheckFailed for a program that is not there or has no address.
    """
    found = []
    for name, local_port in local_ports.items():
        address = next((program.address for program in description.programs if program.name == name), "")
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise CheckFailed(
                f"{description.name} has no address of {name} ({address!r}): provision it again"
            )
        host = host.strip("[]")
        found.append(Route(name, local_port, _ANY.get(host, host), int(port), options[name]))
    return found


class Tunnel:
    """An SSH connection that carries several routes, and is made anew when it is lost."""

    def __init__(self, target: Target, access: Access, say: Callable[[str], None]) -> None:
        if target.local:
            raise BadInput(f"{target.name} is this machine: its programs are here already, without a tunnel")
        self._target = target
        self._access = access
        self._say = say
        self._machine = Ssh(target, access)

    def describe(self) -> host_description.Host:
        """Read the host's description over the connection. Raises LtxopsError."""
        done = self._machine.run(["cat", self._target.host_file], _ANSWER_SECONDS)
        if done.code != 0:
            failure = explain(self._target, done)
            raise type(failure)(f"{failure}: provision the host first")
        try:
            content = json.loads(done.out)
        except ValueError:
            raise BadInput(
                f"{self._target.host_file} on {self._target.name} is not JSON: provision the host again"
            ) from None
        return host_description.parse(content, f"{self._target.host_file} on {self._target.name}")

    def serve(self, ways: list[Route], patience_seconds: float, ready: Callable[[], None]) -> None:
        """Carry connections until interrupted. `ready` is called once the ports are open.

        Raises CheckFailed for a local port that is taken, and NetworkError or AccessDenied when the host is
        lost for good.
        """
        servers = []
        try:
            for way in ways:
                servers.append(listen(way))
            for way, server in zip(ways, servers, strict=True):
                Forwarder(way, server, self._transport, self._say).start()
            ready()
            retry = Retry(patience_seconds)
            retry.connected()
            while True:
                self._hold()
                self._reconnect(retry, patience_seconds)
        finally:
            for server in servers:
                with suppress(OSError):
                    server.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
                server.close()
            self._machine.close()

    def _transport(self) -> Any:
        return self._machine.connection.client.get_transport()

    def _hold(self) -> None:
        while self._machine.connection.is_connected:
            time.sleep(_LOOK_SECONDS)

    def _reconnect(self, retry: Retry, patience_seconds: float) -> None:
        failure: LtxopsError = NetworkError(f"{self._target.name}: the connection was lost")
        while (wait := retry.lost()) is not None:
            self._say(f"{failure}; trying again in {wait:.0f} s")
            self._machine.close()
            time.sleep(wait)
            try:
                self._machine = Ssh(self._target, self._access)
            except NetworkError as error:
                failure = error
            else:
                retry.connected()
                self._say(f"{self._target.name}: connected again")
                return
        raise NetworkError(f"{failure}; given up after {patience_seconds:g} s")
