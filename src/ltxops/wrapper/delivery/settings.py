"""What the operator tells the delivery, read from the environment and checked before anything starts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ltxops.errors import BadInput
from ltxops.wrapper.delivery.addresses import AddressRefused, Network, parse_networks, parse_url
from ltxops.wrapper.delivery.s3 import (
    MAX_EXPIRY_SECONDS,
    Destination,
    DestinationIncomplete,
    destination,
)
from ltxops.wrapper.delivery.signing import parse_secrets

#: Seconds until each further attempt of a webhook; their sum is how long a receiver may be away.
RETRY_SECONDS = (5.0, 30.0, 120.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0)

_PREFIX = re.compile(r"(?:[A-Za-z0-9!_.()-]+/)*")
_S3_VARIABLES = {
    "access_key_id": "S3_ACCESS_KEY_ID",
    "secret_access_key": "S3_SECRET_ACCESS_KEY",
    "bucket_name": "S3_BUCKET_NAME",
    "endpoint_url": "S3_ENDPOINT_URL",
    "region": "S3_REGION",
}


@dataclass(frozen=True)
class DeliverySettings:
    """Limits are in bytes and seconds. None where the host has no destination or webhook of its own."""

    s3: Destination | None = None
    url_expiry_seconds: int = MAX_EXPIRY_SECONDS
    key_prefix: str = ""
    webhook_url: str | None = None
    webhook_secrets: tuple[bytes, ...] = ()
    webhook_timeout_seconds: float = 15.0
    webhook_retry_seconds: tuple[float, ...] = RETRY_SECONDS
    allowed_networks: tuple[Network, ...] = ()
    input_max_bytes: int = 512 * 2**20
    input_timeout_seconds: float = 300.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "DeliverySettings":
        """Return the settings; raises BadInput with the variable's name, and never a secret's value."""

        def text(name: str) -> str | None:
            return environment.get(name, "").strip() or None

        allowed_networks = parse_networks(text("WRAPPER_ALLOWED_NETWORKS") or "")
        return cls(
            s3=_destination({field: text(name) for field, name in _S3_VARIABLES.items()}),
            url_expiry_seconds=_expiry(text("S3_URL_EXPIRY_SECONDS")),
            key_prefix=_key_prefix(text("S3_KEY_PREFIX") or ""),
            webhook_url=_webhook_url(text("WEBHOOK_URL")),
            webhook_secrets=parse_secrets(text("WEBHOOK_SECRET") or ""),
            webhook_timeout_seconds=_seconds(
                environment, "WEBHOOK_TIMEOUT_SECONDS", cls.webhook_timeout_seconds
            ),
            webhook_retry_seconds=_retries(text("WEBHOOK_RETRY_SECONDS")),
            allowed_networks=allowed_networks,
            input_max_bytes=int(_seconds(environment, "WRAPPER_INPUT_MAX_BYTES", cls.input_max_bytes)),
            input_timeout_seconds=_seconds(
                environment, "WRAPPER_INPUT_TIMEOUT_SECONDS", cls.input_timeout_seconds
            ),
        )


def _destination(fields: dict[str, str | None]) -> Destination | None:
    if not any(fields.values()):
        return None
    try:
        return destination(**fields, allowed=None)
    except DestinationIncomplete as error:
        missing = ", ".join(_S3_VARIABLES[field] for field in error.missing)
        raise BadInput(f"S3_* variables are set and {missing} is not; set it, or none of them") from None
    except ValueError as error:
        raise BadInput(f"the S3_* variables cannot be used: {error}") from None


def _expiry(text: str | None) -> int:
    if text is None:
        return MAX_EXPIRY_SECONDS
    if not text.isdecimal() or not 1 <= int(text) <= MAX_EXPIRY_SECONDS:
        raise BadInput(
            f"S3_URL_EXPIRY_SECONDS is {text[:40]!r}; give whole seconds from 1 to {MAX_EXPIRY_SECONDS} (7 "
            "days), the longest that S3 signs for"
        )
    return int(text)


def _key_prefix(text: str) -> str:
    prefix = text.strip("/") + "/" if text.strip("/") else ""
    if not _PREFIX.fullmatch(prefix) or ".." in prefix:
        raise BadInput(
            f"S3_KEY_PREFIX is {text[:80]!r}; give folder names of letters, digits and ! _ . ( ) -"
        )
    return prefix


def _webhook_url(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return str(parse_url(text, allowed=None))
    except AddressRefused as error:
        raise BadInput(f"WEBHOOK_URL cannot be used: {error}") from None


def _retries(text: str | None) -> tuple[float, ...]:
    if text is None:
        return RETRY_SECONDS
    words = text.replace(",", " ").split()
    return tuple(_positive(word, "WEBHOOK_RETRY_SECONDS") for word in words)


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name, "").strip()
    return _positive(text, name) if text else default


def _positive(text: str, name: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e15:
        raise BadInput(f"{name} has {text[:40]!r}, which is no number above 0")
    return number
