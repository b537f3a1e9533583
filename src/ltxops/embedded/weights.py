"""Tiny files that stand in for weights: valid safetensors of a few KiB, the same bytes on every machine.

They have the names and folders of the real ones and nothing else of them. Every file differs from every
other, so that a file in the wrong place is noticed, and says that it is a stand-in where its format has room
for that.
"""

import hashlib
import json
import struct

from ltxops.models.model import Model

_NOTE = "ltxops stand-in: no trained weights"
_SHARDS = 5

#: What the sharded text encoder's repository holds beside the shards.
_COMPANIONS = (
    "README.md",
    "added_tokens.json",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)


def files_of(model: Model) -> dict[str, bytes]:
    """Return what the stand-in repository of a model holds, by path.

    A single file comes with a README beside it. Patterns come with a sharded model and the files of its
    tokenizer in the folder of the first pattern, and with every file that is named without a wildcard.
    """
    if model.file is not None:
        paths = {"README.md", model.file}
    else:
        folder = _literal_folder(model.files[0])
        shards = [f"model-{number:05}-of-{_SHARDS:05}.safetensors" for number in range(1, _SHARDS + 1)]
        paths = {folder + name for name in (*shards, *_COMPANIONS)}
        paths |= {pattern for pattern in model.files if not set("*?[") & set(pattern)}
    return {path: _content(model.repo, path) for path in sorted(paths)}


def is_large(path: str) -> bool:
    """Tell whether the real hub keeps such a file in large file storage, and so knows its sha256."""
    return path.endswith((".safetensors", ".model", "tokenizer.json"))


def _literal_folder(pattern: str) -> str:
    folder = pattern.rpartition("/")[0]
    return f"{folder}/" if folder and not set("*?[") & set(folder) else ""


def _content(repo: str, path: str) -> bytes:
    if path.endswith(".safetensors"):
        return _safetensors(repo, path)
    if path.endswith(".safetensors.index.json"):
        stem = path.removesuffix(".safetensors.index.json").rpartition("/")[2]
        shards = [f"{stem}-{number:05}-of-{_SHARDS:05}.safetensors" for number in range(1, _SHARDS + 1)]
        weight_map = {_tensor(shard): shard for shard in shards}
        return _json({"metadata": {"note": _NOTE, "repo": repo}, "weight_map": weight_map})
    if path.endswith(".json"):
        return _json({"note": _NOTE, "repo": repo, "file": path})
    return f"{_NOTE} ({repo}, {path})\n".encode()


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode() + b"\n"


def _tensor(path: str) -> str:
    return f"stand_in.{path.rpartition('/')[2].removesuffix('.safetensors')}"


def _safetensors(repo: str, path: str) -> bytes:
    """Return one tensor of bytes: a length of 8 bytes, a JSON header, the data.

    The layout is that of https://github.com/huggingface/safetensors#format.
    """
    seed = hashlib.sha256(f"{repo}/{path}".encode()).digest()
    size = 2048 + 256 * (seed[0] % 16)
    data = hashlib.shake_256(seed).digest(size)
    header = json.dumps(
        {
            "__metadata__": {"note": _NOTE, "repo": repo, "file": path},
            _tensor(path): {"dtype": "U8", "shape": [size], "data_offsets": [0, size]},
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data
