"""The host description: which programs run on this host, where they listen, how their health is asked.

The playbook writes it as JSON. Keys this version does not know are ignored, so that an older package still
reads a newer description; what is known is checked.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ltxops.errors import BadInput


@dataclass(frozen=True)
class Health:
    """An HTTP URL and the status that a healthy program answers with (401 for a guarded gateway)."""

    url: str
    status: int


@dataclass(frozen=True)
class Program:
    """One program under supervisord. Without `health` it counts as healthy while it runs."""

    name: str
    address: str
    health: Health | None
    log: str


@dataclass(frozen=True)
class Host:
    """A provisioned host."""

    name: str
    scope: str
    socket: Path
    programs: tuple[Program, ...]
    token_file: str
    url: str


def load(file: str) -> Host:
    """Read the description `file`. Raises BadInput that names the file and the key."""
    try:
        content = json.loads(Path(file).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} cannot be read ({error}): provision the host first") from None
    except ValueError as error:
        raise BadInput(f"{file} is not JSON ({error}): provision the host again") from None
    return parse(content, file)


def parse(content: Any, file: str) -> Host:
    """Check what was read from `file`. Raises BadInput that names the file and the key."""
    if not isinstance(content, dict):
        raise BadInput(f"{file} holds {type(content).__name__}: provision the host again")
    supervisor = content.get("supervisor")
    socket = supervisor.get("socket") if isinstance(supervisor, dict) else None
    if not isinstance(socket, str) or not Path(socket).is_absolute():
        raise BadInput(
            f"{file}: supervisor.socket is {socket!r}: give the absolute path of supervisord's socket"
        )
    entries = content.get("programs")
    if not isinstance(entries, list) or not entries:
        raise BadInput(f"{file}: programs is {entries!r}: give a list with at least one program")
    programs = tuple(_program(entry, f"programs[{index}]", file) for index, entry in enumerate(entries))
    names = [program.name for program in programs]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"{file}: two programs have the name {name!r}: give each its own")
    return Host(
        name=_text(content, "name", "name", file),
        scope=_text(content, "scope", "scope", file),
        socket=Path(socket),
        programs=programs,
        token_file=_text(content, "token_file", "token_file", file, default=""),
        url=_text(content, "url", "url", file, default=""),
    )


def _program(entry: Any, where: str, file: str) -> Program:
    if not isinstance(entry, dict):
        raise BadInput(f"{file}: {where} is {entry!r}: give a mapping with name, address, health and log")
    name = _text(entry, "name", f"{where}.name", file)
    if not name:
        raise BadInput(f"{file}: {where}.name is empty: give the program's name in supervisord")
    return Program(
        name=name,
        address=_text(entry, "address", f"{where}.address", file, default=""),
        health=_health(entry.get("health"), f"{where}.health", file),
        log=_text(entry, "log", f"{where}.log", file, default=""),
    )


def _health(value: Any, where: str, file: str) -> Health | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise BadInput(f"{file}: {where} is {value!r}: give null or a mapping with url and status")
    url = _text(value, "url", f"{where}.url", file)
    try:
        parts = urlsplit(url)
        usable = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:
        usable = False
    if not usable or " " in url:
        raise BadInput(f"{file}: {where}.url is {url!r}: give an http URL with a host")
    status = value.get("status", 200)
    if type(status) is not int or not 100 <= status <= 599:
        raise BadInput(f"{file}: {where}.status is {status!r}: give the HTTP status of a healthy answer")
    return Health(url, status)


def _text(mapping: dict[str, Any], key: str, where: str, file: str, default: str | None = None) -> str:
    value = mapping.get(key, default)
    if not isinstance(value, str):
        raise BadInput(f"{file}: {where} is {value!r}: give a text")
    return value
