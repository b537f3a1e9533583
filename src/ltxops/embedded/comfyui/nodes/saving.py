"""Nodes that end a graph: they write files and say where those are."""

import json
import random
import string
from functools import partial
from pathlib import Path
from typing import Any

from ltxops.embedded.comfyui import encode
from ltxops.embedded.comfyui.frames import Frames
from ltxops.embedded.comfyui.nodes.context import Context, Inputs, Node, Result
from ltxops.embedded.comfyui.saving import Listed, save
from ltxops.embedded.comfyui.values import Video


def _notes(context: Context) -> dict[str, str]:
    """Return what ComfyUI keeps in a file about its making: the graph, and what the web page sent along."""
    extra = context.extra.get("extra_pnginfo")
    notes = {name: json.dumps(value) for name, value in extra.items()} if isinstance(extra, dict) else {}
    return {**notes, "prompt": json.dumps(context.graph)}


def _save_video(context: Context, inputs: Inputs) -> Result:
    video: Video = inputs["video"]

    def write(path: Path) -> None:
        encode.write_mp4(path, video, _notes(context), context.check)

    listed = save(context.folders.output, "output", inputs["filename_prefix"], ".mp4", write)
    return Result((video,), {"images": [listed], "animated": [True]})


def _save_webm(context: Context, inputs: Inputs) -> Result:
    images: Frames = inputs["images"]

    def write(path: Path) -> None:
        encode.write_webm(path, images, inputs["codec"], inputs["fps"], inputs["crf"], context.check)

    listed = save(context.folders.output, "output", inputs["filename_prefix"], ".webm", write)
    return Result((images,), {"images": [listed], "animated": [True]})


def _save_audio(context: Context, inputs: Inputs) -> Result:
    audio = inputs["audio"]

    def write(path: Path) -> None:
        encode.write_flac(path, audio, context.check)

    listed = save(context.folders.output, "output", inputs["filename_prefix"], ".flac", write)
    return Result((audio,), {"audio": [listed]})


def _pictures(context: Context, images: Frames, root: Path, kind: str, prefix: str) -> Result:
    """Write every picture as a PNG under one row of numbers."""
    listed: list[Listed] = []
    for frame in images.frames():
        context.check()
        listed.append(save(root, kind, prefix, ".png", partial(encode.write_png, frame)))
    shown: dict[str, Any] = {"images": listed}
    return Result((images,), shown)


def _save_image(context: Context, inputs: Inputs) -> Result:
    return _pictures(context, inputs["images"], context.folders.output, "output", inputs["filename_prefix"])


def _preview_image(context: Context, inputs: Inputs) -> Result:
    letters = "".join(random.choices(string.ascii_lowercase, k=5))
    return _pictures(context, inputs["images"], context.folders.temp, "temp", f"ComfyUI_temp_{letters}")


NODES: dict[str, Node] = {
    "SaveVideo": _save_video,
    "SaveWEBM": _save_webm,
    "SaveAudio": _save_audio,
    "SaveImage": _save_image,
    "PreviewImage": _preview_image,
}
