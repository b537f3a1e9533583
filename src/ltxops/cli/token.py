"""The gateway's token, which commands take from a file so that no list of processes shows it."""

from pathlib import Path

from ltxops.errors import BadInput


def read_token(path: Path) -> str:
    """Return the token in a file. Raises BadInput when it holds none, or none that a header can carry."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"the token file {path} cannot be read: {error}") from error
    if not token:
        raise BadInput(f"the token file {path} is empty; put the gateway's token into it")
    if not token.isascii() or not token.isprintable():
        raise BadInput(f"the token file {path} must hold one line of printable ASCII")
    return token
