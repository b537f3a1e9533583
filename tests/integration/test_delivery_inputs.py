"""URLs of a workflow become files in ComfyUI's input folder: whole ones of a known type, or none at all."""

import asyncio
import gzip
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.integration.delivery_support import LOOPBACK, PNG, RunningServer, delivering, hang

from ltxops.wrapper.delivery.failures import DeliveryFailed
from ltxops.wrapper.delivery.settings import DeliverySettings

WAV = b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 100
LIMIT = 100_000


async def media(request: web.Request) -> web.StreamResponse:
    """Answer as the path says."""
    match request.path.strip("/").split("/"):
        case ["png", *_]:
            # The type that a server claims does not count.
            return web.Response(body=PNG, content_type="text/html")
        case ["wav"]:
            return web.Response(body=WAV)
        case ["html"]:
            return web.Response(
                body=b"<!doctype html><script>alert(1)</script>" * 9, content_type="image/png"
            )
        case ["svg"]:
            return web.Response(
                body=b"<svg xmlns='http://www.w3.org/2000/svg'/>" * 9, content_type="image/png"
            )
        case ["empty"]:
            return web.Response(body=b"")
        case ["gzip"]:
            return web.Response(body=gzip.compress(PNG), headers={"Content-Encoding": "gzip"})
        case ["hop", count] if count != "0":
            return web.Response(status=302, headers={"Location": f"/hop/{int(count) - 1}"})
        case ["hop", _]:
            return web.Response(body=PNG)
        case ["user"]:
            return web.Response(status=302, headers={"Location": f"http://user@{request.host}/png"})
        case ["scheme"]:
            return web.Response(status=302, headers={"Location": "file:///etc/passwd"})
        case ["size", size]:
            return web.Response(body=PNG[:8] + b"\0" * (int(size) - 8))
        case ["endless"]:
            return await _stream(request, 10**9, break_off=False)
        case ["broken"]:
            return await _stream(request, 50_000, break_off=True)
        case ["hang"]:
            return await hang(request)
    return web.Response(status=404)


async def _stream(request: web.Request, size: int, *, break_off: bool) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        await response.write(PNG)
        for _ in range(size // 10_000):
            await response.write(b"\0" * 10_000)
    except ConnectionError:
        return response
    if break_off and request.transport is not None:
        request.transport.abort()
    return response


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(media) as running:
        yield running


def graph(*urls: str, class_type: str = "LoadImage", name: str = "image") -> dict[str, Any]:
    return {
        str(number): {"class_type": class_type, "inputs": {name: url}} for number, url in enumerate(urls, 1)
    }


def fetch(folder: Path, wanted: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Return the graph with its URLs fetched into `folder`/input."""
    (folder / "input").mkdir(exist_ok=True)
    limits = {"input_max_bytes": LIMIT, "input_timeout_seconds": 10.0, **settings}

    async def main() -> dict[str, Any]:
        async with delivering(folder, DeliverySettings(allowed_networks=LOOPBACK, **limits)) as delivery:
            return await delivery.fetch_inputs("job", wanted, folder / "input")

    return asyncio.run(main())


def left(folder: Path) -> list[Path]:
    """Return every file below the input folder."""
    return [path for path in (folder / "input").rglob("*") if not path.is_dir()]


def test_urls_become_names_that_the_url_has_no_say_in(tmp_path: Path, server: RunningServer) -> None:
    url = f"{server.url}/png/..%2f..%2fevil.sh?name=x.html"
    before = len(server.requests)
    filled = fetch(
        tmp_path, {**graph(url, url, f"{server.url}/png/2"), "text": graph(url, class_type="Text")["1"]}
    )
    assert [filled[node]["inputs"]["image"] for node in "123"] == [
        "ltxops/job/1.png", "ltxops/job/1.png", "ltxops/job/2.png",
    ]  # fmt: skip
    assert filled["text"]["inputs"]["image"] == url
    assert len(server.requests) == before + 2 and server.requests[before][1].endswith("?name=x.html")
    files = left(tmp_path)
    assert sorted(path.name for path in files) == ["1.png", "2.png"]
    assert {path.read_bytes() for path in files} == {PNG}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o640}


def test_the_group_of_the_input_folder_can_read_what_was_fetched(
    tmp_path: Path, server: RunningServer
) -> None:
    (tmp_path / "input").mkdir()
    os.chown(tmp_path / "input", -1, 12345)
    mask = os.umask(0o077)
    try:
        fetch(tmp_path, graph(f"{server.url}/png"))
    finally:
        os.umask(mask)
    for path in (tmp_path / "input").rglob("*"):
        assert path.stat().st_gid == 12345
        assert path.stat().st_mode & (0o050 if path.is_dir() else 0o040)


def test_redirects_are_followed_within_bounds(tmp_path: Path, server: RunningServer) -> None:  # R52
    fetch(tmp_path, graph(f"{server.url}/hop/3"))
    with pytest.raises(DeliveryFailed, match="redirects more than 3 times"):
        fetch(tmp_path, graph(f"{server.url}/hop/4"))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("html", "no file of a known type"),
        ("svg", "no file of a known type"),
        ("empty", "no file of a known type"),
        ("gzip", "no file of a known type"),
        ("wav", "a wav file, which image of node 2 cannot take"),
        ("missing", "answered 404"),
        ("user", "user name"),  # R52
        ("scheme", "no http or https URL"),  # R52
        (f"size/{LIMIT + 1}", f"more than {LIMIT} bytes"),
        ("endless", f"more than {LIMIT} bytes"),
        ("broken", "connection broke|ClientPayloadError"),
    ],
)
def test_what_is_no_whole_input_leaves_nothing_behind(
    tmp_path: Path, server: RunningServer, path: str, reason: str
) -> None:
    with pytest.raises(DeliveryFailed, match=reason) as caught:
        fetch(tmp_path, graph(f"{server.url}/png", f"{server.url}/{path}?X-Amz-Signature=secret"))
    assert "secret" not in str(caught.value)
    assert left(tmp_path) == []


def test_a_file_of_exactly_the_limit_is_taken(tmp_path: Path, server: RunningServer) -> None:
    fetch(tmp_path, graph(f"{server.url}/size/{LIMIT}"))
    assert [path.stat().st_size for path in left(tmp_path)] == [LIMIT]


def test_a_server_that_hangs_is_given_up_in_time(tmp_path: Path, server: RunningServer) -> None:
    with pytest.raises(DeliveryFailed, match="no whole answer within"):
        fetch(tmp_path, graph(f"{server.url}/hang"), input_timeout_seconds=0.5)
    assert left(tmp_path) == []


def test_an_input_that_fills_the_disk_fails_its_job_and_gives_the_room_back(
    tmp_path: Path, server: RunningServer
) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    try:
        with pytest.raises(DeliveryFailed, match="No space left"):
            fetch(tmp_path, graph(f"{server.url}/size/3000000"), input_max_bytes=10**7)
        assert left(tmp_path) == []
        fetch(tmp_path, graph(f"{server.url}/size/500000"), input_max_bytes=10**7)
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_link_in_the_place_of_the_folder_is_not_followed(tmp_path: Path, server: RunningServer) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "elsewhere/job").mkdir(parents=True)
    (tmp_path / "elsewhere/job/kept").touch()
    (tmp_path / "input/ltxops").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeliveryFailed, match="in the way"):
        fetch(tmp_path, graph(f"{server.url}/png"))
    assert [path.name for path in (tmp_path / "elsewhere").rglob("*")] == ["job", "kept"]


def test_files_go_with_their_job_and_only_with_it(tmp_path: Path, server: RunningServer) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "input/own.png").write_bytes(PNG)

    async def main() -> None:
        async with delivering(tmp_path, DeliverySettings(allowed_networks=LOOPBACK)) as delivery:
            for job in ("one", "two"):
                await delivery.fetch_inputs(job, graph(f"{server.url}/png"), tmp_path / "input")
            await delivery.drop_inputs("one", tmp_path / "input")
            await delivery.drop_inputs("never-there", tmp_path / "input")
            with pytest.raises(DeliveryFailed, match="was not told ComfyUI's input folder"):
                await delivery.fetch_inputs("three", graph(f"{server.url}/png"), None)
            assert await delivery.fetch_inputs("three", graph("a.png"), None) == graph("a.png")
            assert (delivery.counters.inputs_fetched, delivery.counters.inputs_failed) == (2, 1)

    asyncio.run(main())
    assert sorted(str(path.relative_to(tmp_path / "input")) for path in left(tmp_path)) == [
        "ltxops/two/1.png", "own.png",
    ]  # fmt: skip
