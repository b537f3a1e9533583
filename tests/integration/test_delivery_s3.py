"""Outputs in a real S3 server: whole under their links, or kept here with the reason."""

import asyncio
import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import pytest
from aiohttp import web
from tests.integration.delivery_support import (
    LOOPBACK,
    Between,
    RunningServer,
    Storage,
    delivering,
    output,
    storage,
    until,
)

from ltxops.wrapper.delivery.outbox import pending
from ltxops.wrapper.delivery.s3 import PART_BYTES, Destination
from ltxops.wrapper.delivery.settings import DeliverySettings
from ltxops.wrapper.schema import OutputItem, S3Settings

Fault = Callable[[web.Request, bytes], Awaitable[web.StreamResponse | bytes | None]]


@pytest.fixture(scope="module")
def server() -> Iterator[Storage]:
    with storage() as running:
        yield running


def host_settings(endpoint_url: str, **settings: Any) -> DeliverySettings:
    """Return the settings of a host with storage of its own, in a network that requests may not call."""
    environment = {
        "S3_ACCESS_KEY_ID": "host-id",
        "S3_SECRET_ACCESS_KEY": "host-secret",
        "S3_BUCKET_NAME": "bucket",
        "S3_ENDPOINT_URL": endpoint_url,
        **settings,
    }
    return DeliverySettings.from_environment(environment)


def upload(
    folder: Path,
    settings: DeliverySettings,
    paths: list[Path],
    s3: S3Settings | None = None,
    job: str = "job",
) -> tuple[list[OutputItem], str | None]:
    async def main() -> tuple[list[OutputItem], str | None]:
        async with delivering(folder, settings) as delivery:
            return await delivery.upload(job, [output(path) for path in paths], s3)

    return asyncio.run(main())


def made(path: Path, size: int) -> Path:
    """Return a file whose bytes differ everywhere, so that a part in the wrong place shows."""
    path.write_bytes(b"".join(number.to_bytes(8, "big") for number in range(-(-size // 8)))[:size])
    return path


def fetched(url: str | None) -> tuple[bytes, str]:
    assert url is not None
    with urlopen(url, timeout=20) as response:
        return response.read(), response.headers["Content-Type"]


@pytest.mark.parametrize("size", [0, 1000, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 12345])
def test_a_file_is_whole_under_its_link(tmp_path: Path, server: Storage, size: int) -> None:  # R57
    path = made(tmp_path / "clip one.mp4", size)
    settings = host_settings(server.url, S3_KEY_PREFIX="videos")
    items, reason = upload(tmp_path, settings, [path], job=f"size-{size}")
    assert reason is None
    body, media_type = fetched(items[0].url)
    assert body == path.read_bytes() and media_type == "video/mp4"
    link = urlsplit(items[0].url or "")
    assert link.path == f"/bucket/videos/size-{size}/clip%20one.mp4"
    query = parse_qs(link.query)
    assert query["X-Amz-Expires"] == ["604800"] and query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-Credential"][0].endswith("/us-east-1/s3/aws4_request")
    assert server.unfinished("bucket") == 0


def test_a_request_says_how_long_its_links_are_valid(tmp_path: Path, server: Storage) -> None:  # R57
    path = made(tmp_path / "a.png", 100)
    settings = host_settings(server.url, S3_URL_EXPIRY_SECONDS="7200")
    for s3, expected in ((None, "7200"), (S3Settings(url_expiry_seconds=60), "60")):
        items, _ = upload(tmp_path, settings, [path], s3)
        assert parse_qs(urlsplit(items[0].url or "").query)["X-Amz-Expires"] == [expected]


def test_nothing_is_uploaded_where_nobody_said_where_to(tmp_path: Path) -> None:
    items, reason = upload(tmp_path, DeliverySettings(), [made(tmp_path / "a.png", 10)])
    assert items[0].url is None and reason is None


def test_an_endpoint_of_a_request_never_sees_the_hosts_keys(
    tmp_path: Path, server: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:  # R55
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "host-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "host-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "host-token")
    path = made(tmp_path / "a.png", 100)
    with RunningServer(Between(server.url)) as theirs:
        settings = DeliverySettings(
            s3=Destination("host-id", "host-secret", "bucket", server.url, "us-east-1", checked=False),
            allowed_networks=LOOPBACK,
        )
        theirs_only = S3Settings(endpoint_url=theirs.url)
        items, reason = upload(tmp_path, settings, [path], theirs_only)
        assert theirs.connections == 0 and items[0].url is None and "missing" in str(reason)
        own = S3Settings(
            endpoint_url=theirs.url, access_key_id="own-id", secret_access_key="own", bucket_name="bucket"
        )
        items, reason = upload(tmp_path, settings, [path], own)
        assert reason is None and str(items[0].url).startswith(theirs.url)
        seen = json.dumps([theirs.requests, items[0].url], default=str)
    assert "own-id" in seen and "host-" not in seen


def test_the_environment_of_the_sdk_has_no_say(
    tmp_path: Path, server: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:  # R55
    for name, value in {
        "AWS_PROFILE": "nobody",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_USE_FIPS_ENDPOINT": "true",
        "AWS_DEFAULT_REGION": "eu-north-1",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "config").write_text(
        "[default]\nendpoint_url = http://127.0.0.1:9\ns3 =\n  addressing_style = x\n"
    )
    items, reason = upload(tmp_path, host_settings(server.url), [made(tmp_path / "a.png", 100)])
    assert reason is None and "us-east-1" in str(items[0].url)


async def cut(request: web.Request, body: bytes) -> web.StreamResponse | None:
    """Break the connection of the last part."""
    if request.query.get("partNumber") == "3":
        assert request.transport is not None
        request.transport.abort()
        return web.Response(status=500)
    return None


async def forbid(request: web.Request, body: bytes) -> web.StreamResponse | None:
    """Refuse every write, as for keys without the right to it."""
    if request.method == "PUT":
        return web.Response(status=403, text="<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
    return None


async def forbid_parts(request: web.Request, body: bytes) -> web.StreamResponse | None:
    """Refuse parts after the upload began."""
    return await forbid(request, body) if "partNumber" in request.query else None


async def corrupt(request: web.Request, body: bytes) -> bytes:
    """Flip a bit on the way."""
    return body[:-1] + bytes([body[-1] ^ 1]) if request.method == "PUT" and body else body


async def lose(request: web.Request, body: bytes) -> web.StreamResponse | None:
    """Say that all is well and keep nothing."""
    return web.Response(headers={"ETag": '"opaque"'}) if request.method == "PUT" else None


async def fail(request: web.Request, body: bytes) -> web.StreamResponse | None:
    """Be out of order."""
    return web.Response(status=503)


@pytest.mark.parametrize(
    ("fault", "size", "expected"),
    [
        (cut, 3 * PART_BYTES, "connection"),
        (forbid, 1000, "403 AccessDenied"),
        (forbid, 3 * PART_BYTES, "403 AccessDenied"),
        (forbid_parts, 3 * PART_BYTES, "403 AccessDenied"),
        (corrupt, 1000, "another checksum"),
        (corrupt, 3 * PART_BYTES, "another checksum"),
        (lose, 1000, "another object"),
        (fail, 1000, "503"),
    ],
)
def test_a_failed_upload_keeps_the_file_and_gives_the_reason_and_no_link(
    tmp_path: Path, server: Storage, caplog: pytest.LogCaptureFixture, fault: Fault, size: int, expected: str
) -> None:  # R56
    caplog.set_level(logging.DEBUG, "ltxops")
    between = Between(server.url)
    path = made(tmp_path / "a.mp4", size)
    whole = path.read_bytes()
    with RunningServer(between) as spoiling:
        between.fault = fault
        items, reason = upload(tmp_path, host_settings(spoiling.url), [path], job="failed")
    assert items[0].url is None and reason is not None
    assert expected in reason and reason.startswith("Of 1 outputs 0 were uploaded: ")
    assert path.read_bytes() == whole
    assert server.unfinished("bucket") == 0
    assert pending(tmp_path / "outbox.sqlite3") == set()
    assert "host-secret" not in caplog.text + reason and "X-Amz-Signature" not in caplog.text + reason


def test_a_passing_fault_is_overcome(tmp_path: Path, server: Storage) -> None:  # R56
    between = Between(server.url)
    failed: list[str] = []

    async def once(request: web.Request, body: bytes) -> web.StreamResponse | None:
        if request.method != "PUT" or failed:
            return None
        failed.append(request.path)
        return web.Response(status=503)

    between.fault = once
    with RunningServer(between) as flaky:
        items, reason = upload(tmp_path, host_settings(flaky.url), [made(tmp_path / "a.png", 100)])
    assert reason is None and items[0].url and failed


def test_what_was_uploaded_before_a_failure_keeps_its_link(tmp_path: Path, server: Storage) -> None:  # R56
    paths = [made(tmp_path / "a.png", 100), tmp_path / "gone.png"]
    items, reason = upload(tmp_path, host_settings(server.url), paths)
    assert items[0].url and items[1].url is None
    assert reason is not None and "Of 2 outputs 1 were uploaded: the file cannot be read" in reason


def test_files_are_needed_while_they_are_uploaded_and_a_given_up_upload_leaves_no_parts(
    tmp_path: Path, server: Storage
) -> None:  # R42 R56
    between = Between(server.url)
    database = tmp_path / "outbox.sqlite3"

    async def hang_on_parts(request: web.Request, body: bytes) -> None:
        if "partNumber" in request.query:
            await asyncio.sleep(3600)

    async def main(endpoint: str) -> None:
        path = made(tmp_path / "a.mp4", 2 * PART_BYTES)
        async with delivering(tmp_path, host_settings(endpoint)) as delivery:
            uploading = asyncio.create_task(delivery.upload("slow", [output(path)], None))
            await until(lambda: server.unfinished("bucket"))
            assert pending(database) == {"slow"}
            uploading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await uploading
            assert pending(database) == set()

    between.fault = hang_on_parts
    with RunningServer(between) as slow:
        asyncio.run(main(slow.url))
    assert server.unfinished("bucket") == 0


def test_a_large_upload_is_not_held_in_memory(tmp_path: Path) -> None:  # R57
    """The peak of a process of its own, while a server that keeps nothing takes 1 GiB from it."""
    size = 1 << 30
    with (tmp_path / "large.mp4").open("wb") as handle:
        handle.truncate(size)
    script = textwrap.dedent("""
        import asyncio, json, resource, sys
        from pathlib import Path
        from ltxops.wrapper.delivery.settings import DeliverySettings
        from tests.integration.delivery_support import delivering, output
        from tests.integration.test_delivery_s3 import host_settings
        async def main():
            folder = Path(sys.argv[1])
            async with delivering(folder, host_settings(sys.argv[2])) as delivery:
                (folder / "small").write_bytes(b"x")
                await delivery.upload("small", [output(folder / "small")], None)
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                items, reason = await delivery.upload("large", [output(folder / "large.mp4")], None)
                grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
                print(json.dumps([items[0].url, reason, grown * 1024]))
        asyncio.run(main())
    """)
    with RunningServer(Sink(size)) as sink:
        done = subprocess.run(
            [sys.executable, "-c", script, tmp_path, sink.url], capture_output=True, text=True, check=True
        )
    url, reason, grown_bytes = json.loads(done.stdout)
    assert url and reason is None
    assert grown_bytes < 256 * 2**20


class Sink:
    """Takes parts as S3 does and keeps none of them."""

    def __init__(self, size: int) -> None:
        self._size = size

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        taken = 0
        async for chunk in request.content.iter_chunked(1 << 20):
            taken += len(chunk)
        if request.method == "HEAD":
            small = "small" in request.path
            return web.Response(headers={"Content-Length": str(1 if small else self._size)})
        if request.method == "POST":
            return web.Response(
                text="<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
                if "uploads" in request.query
                else "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
            )
        return web.Response(headers={"ETag": f'"opaque-{taken}"'})
