"""Small safetensors files, right ones and wrong ones, for tests."""

import json
import os
from typing import Any


def safetensors(data: bytes = b"", **metadata: str) -> bytes:
    """Return a valid file with one tensor of bytes; `data` or 4 KiB of chance."""
    data = data or os.urandom(4096)
    return raw({"w": tensor("U8", [len(data)], 0, len(data))} | {"__metadata__": metadata}, data)


def tensor(kind: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    """Return how a header describes one tensor."""
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def raw(header: Any, data: bytes = b"") -> bytes:
    """Return a file with any header, given as JSON text or as a value."""
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data
