"""Tokens, which commands take from a file so that no list of processes shows them."""

from pathlib import Path

from ltxops.errors import BadInput
from ltxops.models.durable import reason


def read_token(path: Path, option: str = "--token-file") -> str:
    """Return the token in the file that `option` names. Raises BadInput when none is there to be sent."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{option} {path} cannot be read: {reason(error)}") from error
    if not token:
        raise BadInput(f"{option} {path} is empty; put the token into it, or leave the option out")
    require_sendable(token, f"{option} {path}")
    return token


def require_sendable(token: str, where: str) -> None:
    """Raise BadInput for a token that no header can carry; `where` says where it is from."""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise BadInput(f"{where} must hold one line of printable ASCII without spaces")
