"""Where a job's outputs go in S3-compatible storage: the host's destination or the request's, never mixed.

No I/O: what may be used, under which keys the files go, and how large their parts are.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from ltxops.wrapper.delivery.addresses import AddressRefused, Network, parse_url
from ltxops.wrapper.schema import OutputItem, S3Settings

#: The longest a presigned URL can be valid: signature version 4 allows seven days.
MAX_EXPIRY_SECONDS = 604_800
#: Files up to this size go in one request, larger ones in parts of it; it bounds the memory of an upload.
PART_BYTES = 16 * 2**20
#: S3 takes no more parts than that for one object.
MAX_PARTS = 10_000

#: Names that are no ARN: an ARN would make the client call another host than the endpoint.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_REGION = re.compile(r"[A-Za-z0-9-]{1,63}")
_KEY = re.compile(r"[!-~]{1,512}")

#: How a browser is told to show a file. What is not listed is downloaded.
_CONTENT_TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".gif": "image/gif",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
}


class DestinationIncomplete(ValueError):
    """Fields are missing; `missing` has their names."""

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__(f"{', '.join(missing)} missing")
        self.missing = tuple(missing)


@dataclass(frozen=True)
class Destination:
    """One bucket and the keys to it. `endpoint_url` None is Amazon's own.

    `checked` says that only allowed addresses may be called: the endpoint was named in a request.
    """

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    bucket_name: str
    endpoint_url: str | None
    region: str
    checked: bool


def destination(
    access_key_id: str | None,
    secret_access_key: str | None,
    bucket_name: str | None,
    endpoint_url: str | None,
    region: str | None,
    *,
    allowed: Sequence[Network] | None,
) -> Destination:
    """Return the destination of these fields. `allowed` None is for the operator's own endpoint.

    Raises DestinationIncomplete, or ValueError with a sentence; neither has a key's value.
    """
    required = {
        "access_key_id": access_key_id,
        "secret_access_key": secret_access_key,
        "bucket_name": bucket_name,
    }
    missing = [name for name, value in required.items() if not value]
    if missing:
        raise DestinationIncomplete(missing)
    assert access_key_id and secret_access_key and bucket_name
    if not _KEY.fullmatch(access_key_id) or not _KEY.fullmatch(secret_access_key):
        raise ValueError("an access key has a blank or another character that no access key has")
    if not _BUCKET.fullmatch(bucket_name):
        raise ValueError(
            f"the bucket name {bucket_name[:80]!a} is none; give 3 to 255 letters, digits, . - _"
        )
    if region is not None and not _REGION.fullmatch(region):
        raise ValueError(f"the region {region[:80]!a} is none; write it like eu-west-1")
    if endpoint_url is not None:
        try:
            parsed = parse_url(endpoint_url, allowed)
        except AddressRefused as error:
            raise ValueError(f"the endpoint cannot be called: {error}") from None
        if parsed.raw_query_string or parsed.raw_fragment:
            raise ValueError("the endpoint has a query or a fragment; give https://host or https://host/path")
        endpoint_url = str(parsed).rstrip("/")
    return Destination(
        access_key_id,
        secret_access_key,
        bucket_name,
        endpoint_url,
        region or "us-east-1",
        allowed is not None,
    )


def choose(
    requested: S3Settings | None, host: Destination | None, allowed: Sequence[Network]
) -> Destination | None:
    """Return where to upload to: what the request names, all of it, or else the host's own; None for nowhere.

    A request that names anything gets nothing of the host's: else its endpoint would receive what is signed
    with the host's keys. Raises ValueError as `destination` does.
    """
    if requested is None or not requested.given():
        return host
    return destination(
        requested.access_key_id,
        requested.secret_access_key,
        requested.bucket_name,
        requested.endpoint_url,
        requested.region,
        allowed=allowed,
    )


def object_keys(prefix: str, job_id: str, items: Sequence[OutputItem]) -> list[str]:
    """Return the key of each output: `<prefix><job id>/<filename>`, with a number where two have one name."""
    keys: list[str] = []
    taken: set[str] = set()
    for item in items:
        name = PurePath(PurePath(item.local_path).name)
        candidate, number = name, 1
        while str(candidate) in taken:
            number += 1
            candidate = name.with_stem(f"{name.stem}-{number}")
        taken.add(str(candidate))
        keys.append(f"{prefix}{job_id}/{candidate}")
    return keys


def content_type(name: str) -> str:
    """Return the media type a file is stored with: from a table of ours, the same on every host."""
    return _CONTENT_TYPES.get(PurePath(name).suffix.lower(), "application/octet-stream")


def part_sizes(size: int) -> list[int]:
    """Return the sizes in bytes of the parts of a file of `size` bytes."""
    part = max(PART_BYTES, -(-size // MAX_PARTS))
    full, rest = divmod(size, part)
    return [part] * full + ([rest] if rest else [])


def part_is_intact(etag: str, md5: str, encryption: str | None) -> bool:
    """Say whether storage has the bytes that were sent, as far as its answer tells.

    An ETag of 32 hexadecimal digits is the MD5 unless storage encrypts with keys of a key service or of the
    customer (Amazon S3 API reference, `Object`); other stores have ETags of other shapes, which say nothing.
    """
    etag = etag.strip('"').lower()
    if encryption not in (None, "AES256") or not re.fullmatch(r"[0-9a-f]{32}", etag):
        return True
    return etag == md5
