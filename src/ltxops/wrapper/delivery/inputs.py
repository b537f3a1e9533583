"""Which values of a graph are files to be fetched, and what a fetched file may be. No I/O.

Only inputs in which a node takes the name of a file are looked at: a prompt that holds a URL is text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["image", "video", "audio", "file"]

#: Different URLs that one job may name.
MAX_URLS = 16
#: This much of a file is enough to tell its type.
HEAD_BYTES = 64

#: Inputs of nodes whose class begins with `Load`, ComfyUI's own and most others: LoadImage.image,
#: LoadImageMask.image, LoadVideo.file, LoadAudio.audio.
_LOAD_INPUTS: dict[str, Kind] = {"image": "image", "video": "video", "audio": "audio", "file": "file"}
#: Nodes of other names that take a file of ComfyUI's input folder.
_OTHER_INPUTS: dict[tuple[str, str], Kind] = {
    ("VHS_LoadVideo", "video"): "video",
    ("VHS_LoadVideoFFmpeg", "video"): "video",
    ("VHS_LoadAudioUpload", "audio"): "audio",
}
#: What a node of each kind can read. Audio nodes also take the sound of a video.
_READABLE: dict[Kind, tuple[str, ...]] = {
    "image": ("image",),
    "video": ("video", "image"),
    "audio": ("audio", "video"),
    "file": ("image", "video", "audio"),
}
_URL = re.compile(r"https?://", re.IGNORECASE)


@dataclass(frozen=True)
class Reference:
    """An input of a graph that names a URL."""

    node_id: str
    name: str
    kind: Kind
    url: str


def references(graph: Mapping[str, Any]) -> list[Reference]:
    """Return the inputs of `graph` that are to be fetched."""
    found = []
    for node_id, node in graph.items():
        class_type = node.get("class_type")
        for name, value in (node.get("inputs") or {}).items():
            kind = _kind(class_type, name)
            if kind is not None and isinstance(value, str) and _URL.match(value.strip()):
                found.append(Reference(node_id, name, kind, value.strip()))
    return found


def _kind(class_type: object, name: str) -> Kind | None:
    if not isinstance(class_type, str):
        return None
    # Nodes that fetch for themselves (LoadImageFromUrl) want the URL.
    if class_type.startswith("Load") and "url" not in class_type.lower():
        return _LOAD_INPUTS.get(name)
    return _OTHER_INPUTS.get((class_type, name))


def replace(graph: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return a copy of `graph` with the file name of each URL in its place."""
    replaced = dict(graph)
    for reference in references(graph):
        node = replaced[reference.node_id]
        inputs = {**node["inputs"], reference.name: names[reference.url]}
        replaced[reference.node_id] = {**node, "inputs": inputs}
    return replaced


def file_type(head: bytes) -> tuple[str, str] | None:
    """Return kind and extension of a file from its first bytes, or None for one that is not taken.

    Neither its name nor the server's word counts. SVG and HTML are text that a browser would run.
    """
    for signature, kind, extension in (
        (b"\x89PNG\r\n\x1a\n", "image", ".png"),
        (b"\xff\xd8\xff", "image", ".jpg"),
        (b"GIF87a", "image", ".gif"),
        (b"GIF89a", "image", ".gif"),
        (b"fLaC", "audio", ".flac"),
        (b"OggS", "audio", ".ogg"),
        (b"ID3", "audio", ".mp3"),
    ):
        if head.startswith(signature):
            return kind, extension
    if head[:4] == b"RIFF":
        return {b"WEBP": ("image", ".webp"), b"WAVE": ("audio", ".wav")}.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _iso_media_type(head[8:12])
    if head.startswith(b"\x1aE\xdf\xa3") and b"webm" in head[:HEAD_BYTES]:
        return "video", ".webm"
    # A frame of MPEG layer III without a tag before it: eleven bits of sync, version not 01, layer 01.
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2 and head[1] & 0x18 != 0x08:
        return "audio", ".mp3"
    return None


def _iso_media_type(brand: bytes) -> tuple[str, str] | None:
    if brand == b"qt  ":
        return "video", ".mov"
    if brand in (b"M4A ", b"M4B "):
        return "audio", ".m4a"
    # Pictures in the same container, which ComfyUI's nodes do not read.
    if brand in (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return None
    return "video", ".mp4"


def readable(kind: str, wanted: Kind) -> bool:
    """Say whether an input of kind `wanted` can take a file of `kind`."""
    return kind in _READABLE[wanted]
