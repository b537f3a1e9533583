"""Telling from its first bytes whether a file is a safetensors file: weights, and nothing that could run.

The format: a length (unsigned, 64 bits, little endian), that many bytes of JSON, then the tensors' bytes. The
JSON has for each tensor its type, its shape and where its bytes lie; they follow one another without holes
up to the end of the file. https://huggingface.co/docs/safetensors
"""

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from ltxops.errors import BadInput

#: Bytes of the length that a file starts with.
PREFIX_BYTES = 8
#: What readers of the format accept at most.
LONGEST_HEADER_BYTES = 100_000_000

SUFFIX = ".safetensors"
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
_METADATA = "__metadata__"
_TYPE_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,31}\Z")
_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


@dataclass(frozen=True)
class Header:
    """What a file says about itself: how many tensors it has, and its free-form notes."""

    tensors: int
    metadata: dict[str, str]


def check_name(name: str) -> None:
    """Raise BadInput unless `name` ends like a safetensors file."""
    lower = name.lower()
    if lower.endswith(PICKLES):
        raise BadInput(
            f"{name} is a pickle by its name: loading one runs whatever code is in it; take the .safetensors "
            "of the same weights"
        )
    if not lower.endswith(SUFFIX):
        raise BadInput(f"{name} does not end in {SUFFIX}; nothing else is added")


def header_bytes(start: bytes, size: int) -> int:
    """Return how many bytes the header of a file of `size` bytes takes, from its first PREFIX_BYTES or more.

    Raises ValueError when it is no safetensors file.
    """
    if len(start) < PREFIX_BYTES:
        raise ValueError(f"has {size} bytes, which is too short for a safetensors file")
    length = int.from_bytes(start[:PREFIX_BYTES], "little")
    if not 2 <= length <= LONGEST_HEADER_BYTES or length > size - PREFIX_BYTES:
        raise ValueError(_what_else(start))
    return PREFIX_BYTES + length


def _what_else(start: bytes) -> str:
    """Say what a file is whose first bytes are no length of a header."""
    if start.startswith(b"PK\x03\x04") or (start[0] == 0x80 and start[1] in range(1, 6)):
        return "is a pickle by its content: loading one runs whatever code is in it"
    if start.lstrip().startswith(b"<"):
        return "is a web page, not a file; is the address that of the download, and open to all?"
    return f"is no safetensors file: it begins with {start[:PREFIX_BYTES].hex()}"


def parse_header(start: bytes, size: int) -> Header:
    """Check the header at the start of a file of `size` bytes; `start` has at least all of it.

    Raises ValueError saying what is wrong.
    """
    end = header_bytes(start, size)
    raw = start[PREFIX_BYTES:end]
    if len(raw) != end - PREFIX_BYTES:
        raise ValueError("is no safetensors file: it ends within its header")
    if not raw.startswith(b"{"):
        raise ValueError("is no safetensors file: its header is not a JSON object")
    try:
        content = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_repeats, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no safetensors file: its header is not valid JSON ({error})") from None
    metadata = content.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError(f"is a damaged safetensors file: {_METADATA} is not a map of text")
    _check_ranges([_range(name, tensor) for name, tensor in content.items()], size - end)
    return Header(len(content), metadata)


def _range(name: str, tensor: Any) -> tuple[int, int, str]:
    """Return where a tensor's bytes begin and end, after the header."""
    wrong = ValueError(f"is a damaged safetensors file: tensor {name[:100]!r} is not described rightly")
    if not isinstance(tensor, dict) or tensor.keys() != {"dtype", "shape", "data_offsets"}:
        raise wrong
    kind, shape, offsets = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
    if not isinstance(kind, str) or not _TYPE_NAME.match(kind) or not _counts(shape) or not _counts(offsets):
        raise wrong
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise wrong
    # A type that came up after this was written is taken; that its bytes fit in is checked all the same.
    if kind in _BITS and math.prod(shape) * _BITS[kind] != (offsets[1] - offsets[0]) * 8:
        raise wrong
    return offsets[0], offsets[1], name


def _check_ranges(ranges: list[tuple[int, int, str]], room: int) -> None:
    position = 0
    for begin, end, name in sorted(ranges):
        if begin != position:
            raise ValueError(
                f"is a damaged safetensors file: tensor {name[:100]!r} begins at {begin}, not at {position}"
            )
        position = end
    if position != room:
        raise ValueError(
            f"is a damaged safetensors file: its tensors take {position} bytes, but it has {room} for them"
        )


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is given twice")
    return result


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
