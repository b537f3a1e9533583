"""Opens weights the way a loader would, far enough to tell a whole safetensors file from a broken one."""

import json
import re
import struct
from pathlib import Path

#: The format's own bound on its header (safetensors README: 100 MB).
MAX_HEADER_BYTES = 100_000_000
SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.safetensors")


class SafetensorError(Exception):
    """A weight is not the file that its name says."""


def check_safetensors(path: Path) -> None:
    """Check the header of a safetensors file and that its tensors fill the file exactly.

    Raises SafetensorError, or OSError when it cannot be read. Layout (safetensors README): 8 bytes of
    length, little endian, that many bytes of JSON, then the tensors, whose `data_offsets` count from the
    end of the header.
    """
    if path.suffix.lower() not in {".safetensors", ".sft"}:
        raise SafetensorError(
            f"{path.name}: the embedded engine opens safetensors files only, not {path.suffix}"
        )
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise SafetensorError(f"{path.name}: header too small, the file has {size} bytes")
        (length,) = struct.unpack("<Q", start)
        if length > MAX_HEADER_BYTES or 8 + length > size:
            raise SafetensorError(f"{path.name}: invalid header length {length} in a file of {size} bytes")
        raw = file.read(length)
    end = _end_of_tensors(path.name, raw)
    if end != size - 8 - length:
        raise SafetensorError(
            f"{path.name}: incomplete, tensors end at byte {end} of {size - 8 - length} after the header"
        )


def check_text_encoder_folder(first: Path) -> None:
    """Check a sharded text encoder: every shard that the name of `first` implies, and a tokenizer beside
    them.

    A file that is no shard is checked alone. Raises SafetensorError or FileNotFoundError.
    """
    match = SHARD.fullmatch(first.name)
    if not match:
        check_safetensors(first)
        return
    count = int(match["count"])
    for number in range(1, count + 1):
        shard = first.with_name(f"{match['stem']}-{number:05}-of-{count:05}.safetensors")
        if not shard.is_file():
            raise FileNotFoundError(f"{shard.name} of {count} shards is missing in {first.parent.name}")
        check_safetensors(shard)
    if not any((first.parent / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        raise FileNotFoundError(f"no tokenizer.model or tokenizer.json in {first.parent.name}")


def _end_of_tensors(name: str, raw: bytes) -> int:
    """Return where the last tensor ends, in bytes after the header."""
    try:
        header = json.loads(raw)
        ends = [tensor["data_offsets"][1] for key, tensor in header.items() if key != "__metadata__"]
        return max((int(end) for end in ends), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise SafetensorError(f"{name}: invalid header, not the JSON of a safetensors file") from error
