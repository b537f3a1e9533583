"""Three answers of ComfyUI in the shape of another description of its API, from the first backend.

Below /compat: `GET /history` and `GET /history/{prompt_id}` list videos under `videos`, too; `POST
/interrupt` and `POST /queue` are answered with `{}` where ComfyUI says nothing. The gateway sends them here.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import aiohttp
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse
from yarl import URL

from ltxops.wrapper.answers import StrictJSON
from ltxops.wrapper.refusals import Refused

#: An answer beyond this many bytes is passed on as it is: it would have to be held whole to be changed.
CHANGED_BYTES = 64 * 2**20
CHUNK_BYTES = 2**16
#: By the last three ComfyUI tells requests of a foreign web page.
PASSED_HEADERS = frozenset({"content-type", "host", "origin", "sec-fetch-site"})
VIDEO_SUFFIXES = frozenset({".mp4", ".webm", ".mov", ".mkv", ".avi"})


def with_videos(history: dict[str, Any]) -> dict[str, Any]:
    """Return a history in which each video that is listed under `images` is under `videos`, too."""
    for entry in history.values():
        outputs = entry.get("outputs") if isinstance(entry, dict) else None
        for lists in (outputs or {}).values():
            images = lists.get("images") if isinstance(lists, dict) else None
            videos = [item for item in images or [] if _is_video(item)]
            if videos:
                lists.setdefault("videos", videos)
    return history


def _is_video(item: Any) -> bool:
    name = item.get("filename") if isinstance(item, dict) else None
    return isinstance(name, str) and PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES


def compat_routes(comfyui_url: str, session: aiohttp.ClientSession) -> APIRouter:
    """Return the routes, in front of the ComfyUI at `comfyui_url`."""
    router = APIRouter(prefix="/compat", include_in_schema=False)

    async def ask(request: Request, path: str, body: bytes | None = None) -> aiohttp.ClientResponse:
        query = f"?{request.url.query}" if request.url.query else ""
        headers = {name: value for name, value in request.headers.items() if name in PASSED_HEADERS}
        url = URL(f"{comfyui_url}{path}{query}", encoded=True)
        try:
            return await session.request(
                request.method, url, data=body, headers=headers, allow_redirects=False
            )
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise Refused(502, "backend_down", f"{comfyui_url} does not answer: {error}") from error

    @router.get("/history")
    @router.get("/history/{prompt_id}")
    async def history(request: Request, prompt_id: str | None = None) -> Response:
        path = "/history" if prompt_id is None else f"/history/{quote(prompt_id, safe='')}"
        return await _changed(await ask(request, path))

    @router.post("/interrupt")
    @router.post("/queue")
    async def command(request: Request) -> Response:
        path = request.url.path.removeprefix("/compat")
        async with await ask(request, path, await request.body()) as answer:
            text = await answer.read()
        if answer.status == 200 and not text.strip():
            return StrictJSON({})
        return Response(text, answer.status, media_type=answer.content_type)

    return router


async def _changed(answer: aiohttp.ClientResponse) -> Response:
    """Return the answer to a question for the history, changed unless it is too large or something else."""
    held = bytearray()
    async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
        held += chunk
        if len(held) > CHANGED_BYTES:
            return StreamingResponse(
                _rest(bytes(held), answer), answer.status, media_type=answer.content_type
            )
    answer.release()
    try:
        found = await run_in_threadpool(json.loads, bytes(held))
    except ValueError:
        found = None
    if answer.status != 200 or not isinstance(found, dict):
        return Response(bytes(held), answer.status, media_type=answer.content_type)
    return StrictJSON(with_videos(found))


async def _rest(held: bytes, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async with answer:
        yield held
        async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
            yield chunk
