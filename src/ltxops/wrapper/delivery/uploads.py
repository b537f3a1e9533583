"""Uploads files to S3-compatible storage, proves that they arrived, and makes the links to them.

The client is told everything: no keys, profile, endpoint or proxy is taken from this host's environment.
"""

import asyncio
import base64
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from ltxops.timing import in_time
from ltxops.wrapper.delivery.addresses import AddressRefused, Network
from ltxops.wrapper.delivery.connections import Lookup, connector_arguments
from ltxops.wrapper.delivery.failures import DeliveryFailed
from ltxops.wrapper.delivery.s3 import (
    PART_BYTES,
    Destination,
    content_type,
    part_is_intact,
    part_sizes,
)

log = logging.getLogger("ltxops.wrapper.delivery")

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
#: One request with its repetitions; a peer that takes bytes ever more slowly is held to it.
REQUEST_SECONDS = 600.0
ABORT_SECONDS = 30.0
ATTEMPTS = 3
#: Parts in memory at once, of all jobs.
PARTS_AT_ONCE = 4

#: What the SDK would look up for itself: (key of a configuration file, environment, default, conversion).
_NOT_LOOKED_UP: dict[str, tuple[None, None, str | None, None]] = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}


class Uploader:
    """Uploads with bounded memory. `allowed` opens networks for endpoints that requests name."""

    def __init__(self, lookup: Lookup, allowed: Sequence[Network]) -> None:
        self._lookup = lookup
        self._allowed = allowed
        self._room = asyncio.Semaphore(PARTS_AT_ONCE)

    @asynccontextmanager
    async def client(self, destination: Destination) -> AsyncIterator[Any]:
        """Give an S3 client for `destination`."""
        # The SDK takes a quarter of a second to load, and most hosts start without needing it.
        from aiobotocore.config import AioConfig
        from aiobotocore.session import AioSession
        from botocore.handlers import add_expect_header

        checks = connector_arguments(self._lookup, self._allowed) if destination.checked else {}
        checks.pop("force_close", None)
        config = AioConfig(
            connector_args=checks,
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            signature_version="s3v4",
            # Names of buckets as host names need a wildcard record, which stores of one's own seldom have.
            s3={"addressing_style": "path" if destination.endpoint_url else "auto"},
            # Checksums in trailers are refused by many stores; Content-MD5, sent below, by none.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            proxies={},
            ignore_configured_endpoint_urls=True,
            use_fips_endpoint=False,
            use_dualstack_endpoint=False,
        )
        async with AioSession(session_vars=dict(_NOT_LOOKED_UP)).create_client(
            "s3",
            region_name=destination.region,
            endpoint_url=destination.endpoint_url,
            aws_access_key_id=destination.access_key_id,
            aws_secret_access_key=destination.secret_access_key,
            config=config,
        ) as client:
            # The HTTP client would wait for ever for the interim answer, which not every store gives.
            client.meta.events.unregister("before-call.s3", add_expect_header)
            yield client

    async def upload(
        self, client: Any, bucket: str, key: str, path: Path, expiry_seconds: int
    ) -> tuple[str, int]:
        """Upload one file; returns a link that is valid for `expiry_seconds`, and its size in bytes.

        Raises DeliveryFailed with a sentence about what storage said, and leaves no parts behind then.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            size = (await asyncio.to_thread(path.stat)).st_size
            if size <= PART_BYTES:
                etag = await self._put(client, bucket, key, path, size)
            else:
                etag = await self._put_parts(client, bucket, key, path, size)
            stored = await _in_time(client.head_object(Bucket=bucket, Key=key))
            if stored.get("ContentLength", size) != size or stored.get("ETag", etag) != etag:
                raise DeliveryFailed("storage answers with another object than was uploaded")
            link: str = await client.generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=expiry_seconds
            )
            return link, size
        except (BotoCoreError, ClientError, OSError, asyncio.TimeoutError) as error:
            raise DeliveryFailed(_said(error)) from error
        except KeyError as error:
            raise DeliveryFailed(f"storage answered without {error.args[0]}; is that S3?") from error

    async def _put(self, client: Any, bucket: str, key: str, path: Path, size: int) -> str:
        async with self._room:
            body = await asyncio.to_thread(_read, path, 0, size)
            answer = await _in_time(
                client.put_object(
                    Bucket=bucket, Key=key, Body=body, ContentMD5=_md5(body), ContentType=content_type(key)
                )
            )
            _check_part(answer, body, 1)
            return str(answer["ETag"])

    async def _put_parts(self, client: Any, bucket: str, key: str, path: Path, size: int) -> str:
        beginning = asyncio.ensure_future(
            _in_time(client.create_multipart_upload(Bucket=bucket, Key=key, ContentType=content_type(key)))
        )
        try:
            begun = await asyncio.shield(beginning)
            upload = {"Bucket": bucket, "Key": key, "UploadId": begun["UploadId"]}
            parts = await self._send_parts(client, upload, path, part_sizes(size))
            done = await _in_time(
                client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
            )
            return str(done["ETag"])
        except BaseException:
            # Also when the job is cancelled: parts that nobody ends are kept and charged for ever.
            await asyncio.shield(_abort(client, bucket, key, beginning))
            raise

    async def _send_parts(
        self, client: Any, upload: dict[str, str], path: Path, sizes: Sequence[int]
    ) -> list[dict[str, Any]]:
        """Send all parts, a few at a time; return what completes the upload. The first failure ends all."""

        async def send(number: int, offset: int, size: int) -> dict[str, Any]:
            async with self._room:
                body = await asyncio.to_thread(_read, path, offset, size)
                answer = await _in_time(
                    client.upload_part(**upload, PartNumber=number, Body=body, ContentMD5=_md5(body))
                )
                _check_part(answer, body, number)
                return {"PartNumber": number, "ETag": answer["ETag"]}

        offsets = [sum(sizes[:index]) for index in range(len(sizes))]
        tasks = [
            asyncio.create_task(send(number, offset, size))
            for number, (offset, size) in enumerate(zip(offsets, sizes, strict=True), 1)
        ]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _in_time(request: Any) -> Any:
    return await in_time(request, REQUEST_SECONDS)


async def _abort(client: Any, bucket: str, key: str, beginning: asyncio.Future[Any]) -> None:
    """End an upload that may not even have begun; `beginning` gives its id."""
    from botocore.exceptions import BotoCoreError, ClientError

    errors = (BotoCoreError, ClientError, asyncio.TimeoutError, KeyError)
    with suppress(*errors):
        await asyncio.wait({beginning}, timeout=ABORT_SECONDS)
        if not beginning.done():
            beginning.cancel()
            return
        upload_id = beginning.result()["UploadId"]
        try:
            await in_time(
                client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id), ABORT_SECONDS
            )
        except errors:
            log.warning("an unfinished multipart upload stays in bucket %s: %s", bucket, key)


def _read(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as handle:
        handle.seek(offset)
        data = handle.read(size)
    if len(data) != size:
        raise DeliveryFailed(f"{path.name} became shorter while it was uploaded")
    return data


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def _check_part(answer: dict[str, Any], body: bytes, number: int) -> None:
    md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
    if not part_is_intact(answer["ETag"], md5, answer.get("ServerSideEncryption")):
        raise DeliveryFailed(f"part {number} arrived with another checksum than it was sent with")


def _said(error: BaseException) -> str:
    """Return what went wrong in a few words: never a URL, which can hold a key."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        answer = error.response
        status = str(answer.get("ResponseMetadata", {}).get("HTTPStatusCode"))
        code = answer.get("Error", {}).get("Code", "")
        return f"storage answered {status}" if code in ("", status) else f"storage answered {status} {code}"
    if isinstance(error, asyncio.TimeoutError):
        return f"storage took longer than {REQUEST_SECONDS:g} s for one request"
    if isinstance(error, OSError):
        return f"the file cannot be read ({error.strerror})"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, AddressRefused):
            return str(cause)
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = getattr(cause, "os_error", None) or cause.__cause__ or cause.__context__
    return f"the connection to storage failed ({type(error).__name__})"
