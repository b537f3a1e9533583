"""Fetches the URLs of a job into ComfyUI's input folder: bounded, checked at each hop, and whole or not."""

import asyncio
import contextlib
import logging
import os
import shutil
import stat
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp
from yarl import URL

from ltxops.timing import in_time
from ltxops.wrapper.delivery.addresses import AddressRefused, Network, parse_url
from ltxops.wrapper.delivery.connections import why
from ltxops.wrapper.delivery.failures import DeliveryFailed
from ltxops.wrapper.delivery.inputs import (
    HEAD_BYTES,
    Kind,
    file_type,
    readable,
    references,
    replace,
)

log = logging.getLogger("ltxops.wrapper.delivery")

MAX_REDIRECTS = 3
#: The folder of fetched files in ComfyUI's input folder.
FOLDER = "ltxops"

_CHUNK_BYTES = 1 << 20
_REDIRECTS = {301, 302, 303, 307, 308}


class Fetcher:
    """Fetches with a session that connects only to checked addresses."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        allowed: Sequence[Network],
        *,
        max_bytes: int,
        timeout_seconds: float,
    ) -> None:
        self._session = session
        self._allowed = allowed
        self._max_bytes = max_bytes
        self._timeout_seconds = timeout_seconds

    async def fetch_all(
        self, job_id: str, graph: Mapping[str, Any], input_directory: Path
    ) -> tuple[dict[str, Any], int]:
        """Return the graph with file names for its URLs, and how many were fetched.

        Raises DeliveryFailed, and leaves no file of this job then.
        """
        wanted: dict[str, list[tuple[str, Kind]]] = {}
        for reference in references(graph):
            where = f"{reference.name} of node {reference.node_id}"
            wanted.setdefault(reference.url, []).append((where, reference.kind))
        folder = input_directory / FOLDER / job_id
        names: dict[str, str] = {}
        try:
            await asyncio.to_thread(_make_folder, input_directory, folder)
            for number, (url, uses) in enumerate(wanted.items(), 1):
                names[url] = f"{FOLDER}/{job_id}/{await self._fetch(url, uses, folder, number)}"
                log.info("job %s: input %d fetched from %s", job_id, number, URL(url, encoded=True).host)
        except OSError as error:
            raise DeliveryFailed(
                f"an input cannot be put into {folder} ({error.strerror or error}); look at its owner and "
                "its free space"
            ) from error
        finally:
            if len(names) < len(wanted):
                await asyncio.shield(asyncio.to_thread(drop, job_id, input_directory))
        return replace(graph, names), len(names)

    async def _fetch(self, url: str, uses: Sequence[tuple[str, Kind]], folder: Path, number: int) -> str:
        """Fetch one URL and return the name of its file. Raises DeliveryFailed, OSError of the file."""
        place = uses[0][0]
        try:
            return await in_time(self._get(url, uses, folder, number), self._timeout_seconds)
        except _NotTaken as error:
            raise DeliveryFailed(f"the input {place} cannot be used: {error}") from None
        except AddressRefused as error:
            raise DeliveryFailed(f"the input {place} cannot be fetched: {error}") from None
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise DeliveryFailed(
                f"the input {place} cannot be fetched: {why(error, self._timeout_seconds)}"
            ) from None

    async def _get(self, url: str, uses: Sequence[tuple[str, Kind]], folder: Path, number: int) -> str:
        async with self._answer(url) as response:
            return await self._keep(response, uses, folder, number)

    @contextlib.asynccontextmanager
    async def _answer(self, url: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Give the final answer, redirects followed by hand and each checked as the first URL was."""
        for _ in range(MAX_REDIRECTS + 1):
            parsed = parse_url(url, self._allowed)
            async with self._session.get(parsed, allow_redirects=False) as response:
                if response.status == 200:
                    yield response
                    return
                location = response.headers.get("Location", "")
                if response.status not in _REDIRECTS or not location:
                    raise _NotTaken(f"its server answered {response.status}")
                url = urljoin(str(parsed), location)
        raise _NotTaken(f"its server redirects more than {MAX_REDIRECTS} times")

    async def _keep(
        self,
        response: aiohttp.ClientResponse,
        uses: Sequence[tuple[str, Kind]],
        folder: Path,
        number: int,
    ) -> str:
        too_large = _NotTaken(f"it has more than {self._max_bytes} bytes, which is the limit")
        if (response.content_length or 0) > self._max_bytes:
            raise too_large
        part = folder / f".{uuid.uuid4().hex}.part"
        size, head = 0, b""
        with await asyncio.to_thread(part.open, "xb") as handle:
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                size += len(chunk)
                if size > self._max_bytes:
                    raise too_large
                if len(head) < HEAD_BYTES:
                    head += chunk[: HEAD_BYTES - len(head)]
                    if len(head) == HEAD_BYTES:
                        _extension(head, uses)
                await asyncio.to_thread(handle.write, chunk)
        name = f"{number}{_extension(head, uses)}"
        await asyncio.to_thread(_publish, part, folder / name)
        return name


class _NotTaken(Exception):
    """What the server sent is no input; the message continues a sentence."""


def _extension(head: bytes, uses: Sequence[tuple[str, Kind]]) -> str:
    """Return the extension of a file that every one of its inputs can read; raises _NotTaken."""
    found = file_type(head)
    if found is None:
        raise _NotTaken(
            "it is no file of a known type, which are PNG, JPEG, WebP, GIF, MP4, MOV, WebM, WAV, MP3, M4A, "
            "FLAC and Ogg"
        )
    kind, extension = found
    for place, wanted in uses:
        if not readable(kind, wanted):
            raise _NotTaken(f"it is a {extension[1:]} file, which {place} cannot take")
    return extension


def _make_folder(input_directory: Path, folder: Path) -> None:
    """Make the job's folder, open to the group of ComfyUI's input folder, whose user is another."""
    if not input_directory.is_dir():
        raise DeliveryFailed(f"ComfyUI's input folder {input_directory} does not exist on this host")
    for made in (folder.parent, folder):
        made.mkdir(exist_ok=True)
        status = made.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise DeliveryFailed(f"{made} is in the way of the folder for fetched inputs")
        if status.st_uid == os.geteuid():
            with contextlib.suppress(PermissionError):
                os.chown(made, -1, input_directory.stat().st_gid)
            made.chmod(stat.S_IMODE(status.st_mode) | 0o750)


def _publish(part: Path, target: Path) -> None:
    with contextlib.suppress(PermissionError):
        os.chown(part, -1, target.parent.stat().st_gid)
    part.chmod(0o640)
    part.replace(target)


def drop(job_id: str, input_directory: Path) -> None:
    """Remove the fetched files of a job; none is no error. Nothing is removed through a link."""
    if (input_directory / FOLDER).is_symlink():
        return
    shutil.rmtree(input_directory / FOLDER / job_id, ignore_errors=True)
