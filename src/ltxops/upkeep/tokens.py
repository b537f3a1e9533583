"""The gateway's bearer tokens: named files that only their owner reads, and the map that nginx reads.

Several are valid at once, so that one can be replaced without a gap: make the new one, move the clients,
revoke the old one. The host's own, `host`, is what its own checks use; it lies in `token`, those made here in
`tokens/`, those of the inventory in `given-tokens/`, which the playbook keeps.
"""

import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import log2
from pathlib import Path

from ltxops.errors import BadInput

HOST = "host"
GIVEN = "given-tokens"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_VALUE = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")


@dataclass(frozen=True)
class Token:
    """One token. `made` is in seconds since the epoch. Its repr leaves the value out."""

    name: str
    path: Path
    value: str
    made: float

    def __repr__(self) -> str:
        return f"Token({self.name})"

    @property
    def bits(self) -> int:
        """How hard it is to guess at most: the length times what its characters are drawn from."""
        return int(len(self.value) * log2(max(2, len(set(self.value)))))

    @property
    def is_given(self) -> bool:
        """Whether the inventory names it, so that the playbook would bring it back."""
        return self.path.parent.name == GIVEN

    def age_seconds(self, now: float) -> float:
        """How long ago it was made."""
        return max(0.0, now - self.made)


def path_of(directory: Path, name: str) -> Path:
    """Return where the token `name` lies or would be made. Raises BadInput for a name that is none."""
    if not _NAME.fullmatch(name):
        raise BadInput(f"the token's name is {name!r}: give 1 to 32 of a-z 0-9 _ -, a letter or digit first")
    given = directory / GIVEN / name
    if name != HOST and given.is_file():
        return given
    return directory / "token" if name == HOST else directory / "tokens" / name


def read_all(directory: Path) -> list[Token]:
    """Return every token, the host's first. Raises BadInput for a file that holds none, unshown."""
    try:
        folders = [folder for name in ("tokens", GIVEN) if (folder := directory / name).is_dir()]
        listed = [path.name for folder in folders for path in folder.iterdir()]
        others = sorted({name for name in listed if _NAME.fullmatch(name)})
        names = [HOST, *others] if (directory / "token").exists() else others
        return [_read(directory, name) for name in names]
    except PermissionError as error:
        raise BadInput(f"{error.filename} may be read by its owner only: run the command as root") from None


def make(directory: Path, name: str) -> Token:
    """Make a token of 256 random bits. Raises BadInput if there is one of that name."""
    path = path_of(directory, name)
    if path.exists():
        raise BadInput(f"there is a token {name!r} already: choose another name, or revoke it first")
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_private(path, secrets.token_urlsafe(32) + "\n")
    return _read(directory, name)


def remove(directory: Path, name: str) -> Token:
    """Delete a token, and return it; the host's own is replaced by a new one.

    Raises BadInput for a name there is not.
    """
    path = path_of(directory, name)
    if not path.is_file():
        known = ", ".join(token.name for token in read_all(directory)) or "none"
        raise BadInput(f"there is no token {name!r}: there is {known}")
    removed = Token(name, path, "", path.stat().st_mtime)
    path.unlink()
    if name == HOST:
        make(directory, HOST)
    return removed


def render(tokens: list[Token]) -> str:
    """Return the map from Authorization header to token name.

    Regular expressions, because nginx compares plain strings of a map without regard to case.
    """
    lines = [f'    "~^(?i:Bearer) {re.escape(token.value)}$" "{token.name}";' for token in tokens]
    return "\n".join(
        [
            "# Written by ltxops token.",
            "map $http_authorization $ltxops_client {",
            '    default "";',
            *lines,
            "}",
            "",
        ]
    )


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Let one command at a time change the tokens. Raises BadInput without a gateway or the right."""
    if not (directory / "gateway").is_dir():
        raise BadInput(
            f"there is no gateway below {directory}: give the folder of a host that was provisioned"
        )
    try:
        descriptor = os.open(directory / ".tokens.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BadInput(
            f"the tokens in {directory} cannot be changed ({error.strerror}): run the command as root"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 that appears whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def describe(token: Token) -> dict[str, object]:
    """Return a token's entry in `--json`, without its value."""
    days = token.age_seconds(time.time()) / 86400
    return {"name": token.name, "file": str(token.path), "age_days": round(days, 1), "bits": token.bits}


def _read(directory: Path, name: str) -> Token:
    path = path_of(directory, name)
    value = path.read_text(errors="replace").strip()
    if not _VALUE.fullmatch(value):
        raise BadInput(
            f"{path} holds {len(value)} characters, or one that a header cannot carry: a token has 16 to 512 "
            "of A-Z a-z 0-9 . _ ~ + / = -; delete the file and make one with `ltxops token new`"
        )
    return Token(name, path, value, path.stat().st_mtime)
