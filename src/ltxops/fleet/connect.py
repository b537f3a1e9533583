"""Open SSH connections with Fabric: host keys are checked, jump hosts used, a dead network is noticed.

Says in one sentence, and with the exit code of its kind, why a host cannot be reached.
"""

import logging
import shlex
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabric import Config, Connection
from fabric.connection import derive_shorthand
from paramiko.ssh_exception import (
    AuthenticationException,
    BadHostKeyException,
    NoValidConnectionsError,
    PasswordRequiredException,
    SSHException,
)

from ltxops.errors import AccessDenied, BadInput, LtxopsError, NetworkError
from ltxops.fleet.hostkeys import KnownHosts, UnknownHostKey
from ltxops.fleet.inventory import Target
from ltxops.fleet.ssh_options import settings

CONNECT_SECONDS = 10
KEEPALIVE_SECONDS = 10
#: A connection whose packets are not acknowledged for this long is dead (tcp(7), TCP_USER_TIMEOUT, ms).
_UNACKNOWLEDGED_MS = 30_000
_TRUSTING = ("no", "off", "accept-new")

# Paramiko logs a traceback for each connection that fails; what matters is raised.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Access:
    """What the operator said for all hosts: Fabric's configuration (-i, -S, -t), whether new keys pass."""

    config: Config
    accept_new: bool = False


def dial(target: Target, access: Access) -> Connection:
    """Return an open connection.

    Raises AccessDenied for a host key or a user that is refused, NetworkError where nobody answers, BadInput
    for settings that cannot be used.
    """
    connection, known_hosts = _prepare(target, access)
    try:
        connection.open()
    except BadHostKeyException as error:
        hop = _failed(connection)
        failure: LtxopsError = known_hosts[hop].changed(error, hop.port)
    except UnknownHostKey as error:
        failure = AccessDenied(str(error))
    except (AuthenticationException, SSHException, OSError, EOFError) as error:
        failure = _unreachable(target, _failed(connection), error)
    else:
        for hop in _hops(connection):
            _watch(hop)
        return connection
    hang_up(connection)
    raise failure


def hang_up(connection: Connection) -> None:
    """Close the connection and the jump hosts it goes through."""
    for hop in _hops(connection):
        hop.client.close()


def _prepare(target: Target, access: Access) -> tuple[Connection, dict[Connection, KnownHosts]]:
    given = settings(target.name, target.ssh_args, target.address)
    arguments = _arguments(access.config)
    keys = [target.key] if target.key else given.get("identityfile", [])
    if keys:
        arguments["key_filename"] = [_key(target.name, key) for key in keys]
    if target.password:
        arguments["password"] = target.password
    connection = Connection(
        _first(given, "hostname") or target.address,
        user=target.user or _first(given, "user"),
        port=target.port or _number(_first(given, "port")),
        config=access.config.clone(),
        gateway=False,
        connect_timeout=_timeout(access.config)
        or _number(_first(given, "connecttimeout"))
        or CONNECT_SECONDS,
        connect_kwargs=arguments,
    )
    own = {**{key: _listed(value) for key, value in connection.ssh_config.items()}, **given}
    if (_first(own, "identitiesonly") or "").lower() == "yes":
        connection.connect_kwargs.update(allow_agent=False, look_for_keys=False)
    connection.gateway = _gateway(connection, own, access)
    guards = {}
    for hop in _hops(connection):
        # A jump host is checked as its own ssh configuration says.
        asked = own if hop is connection else {k: _listed(v) for k, v in hop.ssh_config.items()}
        guards[hop] = KnownHosts(
            target.name, _known_hosts_files(asked), access.accept_new or _trusting(asked)
        )
        guards[hop].guard(hop.client)
    return connection, guards


def _arguments(config: Config) -> dict[str, Any]:
    """Return the arguments for paramiko. Fabric takes either those of its configuration or ours, not both."""
    given = {
        key: value for key, value in config.connect_kwargs.items() if key not in ("key_filename", "timeout")
    }
    return {"banner_timeout": 15, "auth_timeout": 30, "channel_timeout": 30, **given}


def _timeout(config: Config) -> int | None:
    """Return the seconds of `fab -t`."""
    seconds: int | None = config.connect_kwargs.get("timeout")
    return seconds


def _gateway(connection: Connection, own: dict[str, list[str]], access: Access) -> Connection | str | None:
    """Return what the connection goes through: a chain of jump hosts, a command, or nothing."""
    jump, command = _first(own, "proxyjump"), _first(own, "proxycommand")
    if jump and jump.lower() != "none":
        hop = None
        for word in jump.split(","):
            parts = derive_shorthand(word.removeprefix("ssh://").replace("[", "").replace("]", ""))
            hop = Connection(
                parts["host"],
                user=parts["user"],
                port=parts["port"],
                config=access.config.clone(),
                gateway=hop or False,
                connect_timeout=_timeout(access.config) or CONNECT_SECONDS,
                connect_kwargs=_arguments(access.config),
            )
        return hop
    if command and command.lower() != "none":
        tokens = {"%h": connection.host, "%p": str(connection.port), "%r": connection.user}
        for token, value in tokens.items():
            command = command.replace(token, value)
        return command
    return None


def _hops(connection: Connection) -> list[Connection]:
    """Return the connection and the jump hosts behind it."""
    found = [connection]
    while isinstance(found[-1].gateway, Connection):
        found.append(found[-1].gateway)
    return found


def _watch(connection: Connection) -> None:
    """Make a connection whose other end has vanished end within a minute rather than hang."""
    transport = connection.client.get_transport()
    transport.set_keepalive(KEEPALIVE_SECONDS)
    option = getattr(socket, "TCP_USER_TIMEOUT", None)  # not on every system
    if option is not None and isinstance(transport.sock, socket.socket):
        transport.sock.setsockopt(socket.IPPROTO_TCP, option, _UNACKNOWLEDGED_MS)


def _failed(connection: Connection) -> Connection:
    """Return which one of the connection and its jump hosts is the first that is not open."""
    return next((hop for hop in reversed(_hops(connection)) if not hop.is_connected), connection)


def _refused(connection: Connection) -> bool:
    """Tell whether the connection stands and nobody has been let in."""
    transport = connection.client.get_transport()
    return bool(transport and transport.is_active() and transport.initial_kex_done)


def _unreachable(target: Target, connection: Connection, error: Exception) -> LtxopsError:
    where = f"{connection.user}@{connection.host} port {connection.port}"
    if isinstance(error, PasswordRequiredException):
        return AccessDenied(
            f"{target.name}: the key for {where} has a passphrase: load it into ssh-agent, or use "
            "--prompt-for-passphrase"
        )
    if isinstance(error, AuthenticationException) or _refused(connection):
        return AccessDenied(
            f"{target.name}: {where} refuses this login ({error}): check ansible_user and "
            "ansible_ssh_private_key_file, or give a key with -i"
        )
    if isinstance(error, NoValidConnectionsError):
        reason = "; ".join(sorted({str(one.strerror or one).lower() for one in error.errors.values()}))
    elif isinstance(error, socket.gaierror):
        reason = "its name has no address"
    elif isinstance(error, TimeoutError):
        reason = "no answer in time"
    else:
        reason = str(error) or "the connection was closed"
    return NetworkError(
        f"{target.name}: no SSH connection to {where} ({reason}): is the host up, and its port right?"
    )


def _known_hosts_files(own: dict[str, list[str]]) -> list[Path]:
    """Return the files that ssh would read (ssh_config(5)), those of the user first."""
    user = _first(own, "userknownhostsfile") or "~/.ssh/known_hosts ~/.ssh/known_hosts2"
    system = _first(own, "globalknownhostsfile") or "/etc/ssh/ssh_known_hosts"
    return [Path(word).expanduser() for word in shlex.split(f"{user} {system}") if word.lower() != "none"]


def _trusting(own: dict[str, list[str]]) -> bool:
    """Tell whether new keys pass. That a changed one should, too, is not granted to anybody."""
    return (_first(own, "stricthostkeychecking") or "").lower() in _TRUSTING


def _key(name: str, key: str) -> str:
    path = Path(key).expanduser()
    if not path.is_file():
        raise BadInput(f"{name}: there is no key {path}: correct ansible_ssh_private_key_file")
    return str(path)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _first(values: dict[str, list[str]], key: str) -> str | None:
    found = values.get(key)
    return found[0] if found else None


def _listed(value: Any) -> list[str]:
    return list(value) if isinstance(value, list) else [str(value)]
