"""Presigned URLs are keys: who reads one in a log can fetch the file. Their queries are left out there."""

import re

#: A query with a signature in it, of AWS (versions 4 and 2), Google, Azure, or the like.
_SIGNED_QUERY = re.compile(
    r"\?[^\s'\"<>]*?(?:X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)|Signature|sig)"
    r"=[^\s'\"<>]*",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Return `text` with the query of each presigned URL in it replaced by `?…`."""
    return _SIGNED_QUERY.sub("?…", text)
