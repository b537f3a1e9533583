"""Files in and out over HTTP: `/view` and `/upload/image`, neither of which leads out of its folder."""

import asyncio
import mimetypes
import os
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from ltxops.embedded.comfyui.catalog import ANNOTATED
from ltxops.embedded.comfyui.options import Folders

#: Types that a browser would run; ComfyUI sends them as plain bytes.
RUNNABLE = {
    "text/html",
    "text/html-sandboxed",
    "application/xhtml+xml",
    "text/javascript",
    "text/css",
    "image/svg+xml",
}


def view(folders: Folders, query: Mapping[str, str]) -> web.StreamResponse:
    """Return the file that `filename`, `subfolder` and `type` name; aiohttp answers ranges.

    A name that leads upwards is answered 400, a subfolder that does 403, a file that is not there 404.
    """
    name = query.get("filename", "")
    kind = query.get("type", "output")
    if match := ANNOTATED.fullmatch(name):
        name, kind = match["name"], match["kind"]
    root = folders.of_type(kind)
    if (
        not name
        or name.startswith("/")
        or ".." in name
        or "\0" in name + query.get("subfolder", "")
        or root is None
    ):
        return web.Response(status=400)
    folder = Path(os.path.normpath(root / query.get("subfolder", "")))
    if not folder.is_relative_to(root):
        return web.Response(status=403)
    path = folder / Path(name).name
    if not path.is_file():
        return web.Response(status=404)
    media = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    headers = {
        "Content-Disposition": f'filename="{path.name}"',
        "Content-Type": "application/octet-stream" if media in RUNNABLE else media,
    }
    return web.FileResponse(path, headers=headers)


async def upload_image(folders: Folders, request: web.Request) -> web.Response:
    """Store the form's `image` and say under which name; without `overwrite` nothing is replaced."""
    form = await request.post()
    image = form.get("image")
    kind, subfolder = str(form.get("type") or "input"), str(form.get("subfolder") or "")
    if not isinstance(image, web.FileField) or not image.filename:
        return web.Response(status=400)
    target = _upload_target(folders.of_type(kind), subfolder, image.filename)
    if target is None:
        return web.Response(status=400)
    overwrite = form.get("overwrite") in ("true", "1")
    name = await asyncio.to_thread(lambda: store(target, image.file.read(), overwrite=overwrite))
    return web.json_response({"name": name, "subfolder": subfolder, "type": kind})


def _upload_target(root: Path | None, subfolder: str, name: str) -> Path | None:
    """Return where an upload belongs, None where that is outside of `root`."""
    if root is None or "\0" in subfolder + name or Path(name).name in {"", ".."}:
        return None
    target = Path(os.path.normpath(root / subfolder / name))
    return target if target.is_relative_to(root) and target != root else None


def store(target: Path, content: bytes, *, overwrite: bool) -> str:
    """Write `content` whole or not at all, under `target` or the next free `name (1)`; returns the name used.

    The same bytes under the same name are there already, and nothing is written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    path, number = target, 1
    while not overwrite and path.exists():
        if path.is_file() and path.read_bytes() == content:
            return path.name
        path = target.with_name(f"{target.stem} ({number}){target.suffix}")
        number += 1
    part = path.with_name(f".{path.name[:100]}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path.name
