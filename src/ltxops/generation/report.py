"""What a smoke run leaves behind: a report in JSON, and a contact sheet that a person judges at a glance."""

import json
import os
import uuid
from pathlib import Path
from typing import Any

import av
from PIL import Image, ImageDraw, ImageFont

from ltxops.errors import CheckFailed

_HIDDEN = "[hidden]"
_COLUMNS, _ROWS = 4, 3
_CELL_PIXELS, _GAP_PIXELS, _CAPTION_PIXELS, _TEXT_PIXELS = 320, 6, 44, 18
_PAPER, _INK = (24, 24, 28), (235, 235, 235)
_TAIL_BYTES = 64 << 10


def hide(value: Any, secret: str | None) -> Any:
    """Return a copy of a JSON value in which no text holds the secret."""
    if not secret:
        return value
    if isinstance(value, str):
        return value.replace(secret, _HIDDEN)
    if isinstance(value, dict):
        return {hide(key, secret): hide(item, secret) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [hide(item, secret) for item in value]
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file that is either the old one or the whole new one."""
    part = _part(path)
    try:
        with part.open("w", encoding="utf-8") as handle:
            json.dump(value, handle, indent=2)
            handle.write("\n")
            handle.flush()
            os.fsync(handle.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def tail(path: Path, lines: int) -> list[str]:
    """Return the last lines of a log, or one line that says why there are none."""
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = handle.read().decode("utf-8", errors="replace")
    except OSError as error:
        return [f"({path} cannot be read: {error.strerror})"]
    return text.splitlines()[-lines:] or [f"({path} is empty)"]


def write_contact_sheet(video: Path, frames: int, caption: str, path: Path) -> None:
    """Draw up to twelve frames of a video, evenly spread, over a strip with `caption`.

    `frames` is how many the video has. Raises CheckFailed when none can be decoded.
    """
    pictures = _pick(video, frames)
    if not pictures:
        raise CheckFailed(f"{video} has no frame that could be drawn")
    columns = min(_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    width, height = pictures[0].size
    sheet = Image.new(
        "RGB",
        (
            columns * (width + _GAP_PIXELS) + _GAP_PIXELS,
            rows * (height + _GAP_PIXELS) + _GAP_PIXELS + _CAPTION_PIXELS,
        ),
        _PAPER,
    )
    for index, picture in enumerate(pictures):
        left = _GAP_PIXELS + index % columns * (width + _GAP_PIXELS)
        top = _GAP_PIXELS + index // columns * (height + _GAP_PIXELS)
        sheet.paste(picture, (left, top))
    font = ImageFont.load_default(_TEXT_PIXELS)
    middle = sheet.height - _CAPTION_PIXELS // 2
    ImageDraw.Draw(sheet).text((2 * _GAP_PIXELS, middle), caption, fill=_INK, font=font, anchor="lm")
    part = _part(path)
    try:
        sheet.save(part, format="PNG")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _pick(video: Path, frames: int) -> list[Image.Image]:
    count = min(_COLUMNS * _ROWS, frames)
    chosen = {round(index * (frames - 1) / max(1, count - 1)) for index in range(count)}
    with av.open(str(video)) as container:
        return [
            _shrunk(frame.to_image())
            for index, frame in enumerate(container.decode(video=0))
            if index in chosen
        ]


def _shrunk(picture: Image.Image) -> Image.Image:
    picture.thumbnail((_CELL_PIXELS, _CELL_PIXELS))
    return picture


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
