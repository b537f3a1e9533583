"""The gateway's tokens as an inventory gives them: which are refused, and where they lie on the host."""

from __future__ import annotations

import re
from collections.abc import Iterator

#: The folder of the named ones, beside those that were made on the host.
FOLDER = "given-tokens"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_VALUE = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")
_GIVE = "give 16 to 512 of A-Z a-z 0-9 . _ ~ + / = -"


def problems(token: str | None, tokens: dict[str, str]) -> Iterator[str]:
    """Return a sentence for each setting that is refused, none of which shows a token.

    `token` is the host's own, `tokens` are the others by name.
    """
    if token is not None and not _VALUE.fullmatch(token):
        yield (
            f"gateway_token has {len(token)} characters, or one that a header cannot carry: {_GIVE}, "
            "or leave it out and one is made"
        )
    names: dict[str, str] = {} if token is None else {token: "gateway_token"}
    for number, (name, value) in enumerate(tokens.items(), 1):
        if not _NAME.fullmatch(name) or name == "host":
            # Unshown: who has mistaken one for the other has a token there.
            yield (
                f"name {number} in gateway_tokens has {len(name)} characters, or one that is not allowed: "
                "give 1 to 32 of a-z 0-9 _ -, a letter or digit first, and not host"
            )
        elif not _VALUE.fullmatch(value):
            yield (
                f"gateway_tokens: {name} has {len(value)} characters, or one that a header cannot carry: "
                f"{_GIVE}"
            )
        elif value in names:
            yield f"gateway_tokens: {name} is the same token as {names[value]}: give each client its own"
        names.setdefault(value, name)
