"""Signatures of webhooks as Standard Webhooks 1.0.0 defines them: HMAC-SHA256 over id, timestamp and body."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

from ltxops.errors import BadInput

#: Sizes in bytes that the specification allows for a secret.
_SHORTEST, _LONGEST = 24, 64


def parse_secrets(text: str) -> tuple[bytes, ...]:
    """Return the secrets in WEBHOOK_SECRET: usually one, two separated by a blank while one replaces another.

    Raises BadInput without the value.
    """
    secrets = []
    for word in text.split():
        try:
            secret = base64.b64decode(word.removeprefix("whsec_"), validate=True)
        except (binascii.Error, ValueError):
            secret = b""
        if not _SHORTEST <= len(secret) <= _LONGEST:
            raise BadInput(
                f"WEBHOOK_SECRET is not the base64 of {_SHORTEST} to {_LONGEST} bytes; make one with "
                '`echo "whsec_$(openssl rand -base64 32)"`'
            )
        secrets.append(secret)
    return tuple(secrets)


def headers(event_id: str, timestamp: int, body: bytes, secrets: Sequence[bytes]) -> dict[str, str]:
    """Return the headers of one attempt. `timestamp` is in seconds since 1970; a retry keeps the id."""
    signed = f"{event_id}.{timestamp}.".encode() + body
    signatures = [
        "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
        for secret in secrets
    ]
    found = {"webhook-id": event_id, "webhook-timestamp": str(timestamp)}
    return {**found, "webhook-signature": " ".join(signatures)} if signatures else found
