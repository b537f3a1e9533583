"""The files that every client fetches: random bytes, shaped like the repositories of LTX-2."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy
import yaml

REPO = "benchmark/ltx-2"
#: Sizes in bytes at scale 1, 4.26 GB in all: those of the profile `vast`, divided by 25.
LARGE = {
    "checkpoints/ltx-2-19b-dev-fp8.safetensors": 1_083_000_000,
    "checkpoints/ltx-2-19b-distilled.safetensors": 1_731_000_000,
    "diffusion_models/lotus-depth-d-v1-1.safetensors": 69_000_000,
    "latent_upscale_models/ltx-2-spatial-upscaler-x2-1.0.safetensors": 40_000_000,
    "loras/ltx-2-19b-distilled-lora-384.safetensors": 307_000_000,
    "loras/ltx-2-19b-ic-lora-depth-control.safetensors": 26_000_000,
    "loras/ltx-2-19b-lora-camera-control-dolly-left.safetensors": 13_000_000,
    "text_encoders/gemma_3_12B_it.safetensors": 975_000_000,
    "vae/vae-ft-mse-840000-ema-pruned.safetensors": 13_000_000,
}
SMALL = (
    "text_encoders/gemma/config.json",
    "text_encoders/gemma/generation_config.json",
    "text_encoders/gemma/special_tokens_map.json",
    "text_encoders/gemma/tokenizer_config.json",
)
#: The one file that the faults happen to.
ONE = "loras/ltx-2-19b-distilled-lora-384.safetensors"

_CHUNK_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Promise:
    """What a file has to be in the end."""

    size: int
    sha256: str


def write_tree(root: Path, scale: float) -> dict[str, Promise]:
    """Write the files under ROOT/REPO, the same ones every time; return what each has to be, by path."""
    source = numpy.random.default_rng(2)
    promises = {}
    for name, size in LARGE.items():
        path = root / REPO / name
        path.parent.mkdir(parents=True, exist_ok=True)
        left, digest = max(1, round(size * scale)), hashlib.sha256()
        with path.open("wb") as stream:
            while left:
                chunk = source.bytes(min(_CHUNK_BYTES, left))
                stream.write(chunk)
                digest.update(chunk)
                left -= len(chunk)
        promises[name] = Promise(path.stat().st_size, digest.hexdigest())
    for name in SMALL:
        content = json.dumps({"benchmark": name, "values": list(range(300))}).encode()
        (root / REPO / name).parent.mkdir(parents=True, exist_ok=True)
        (root / REPO / name).write_bytes(content)
        promises[name] = Promise(len(content), hashlib.sha256(content).hexdigest())
    return promises


def write_manifest(path: Path, files: Mapping[str, Promise]) -> None:
    """Write a models.yaml with the profiles `all` and `one`, whose destinations are the paths themselves."""
    models = {
        name.replace("/", "-"): {"repo": REPO, "file": name, "dest": f"{name.rpartition('/')[0]}/"}
        for name in files
    }
    profiles = {"all": {"models": list(models)}, "one": {"models": [ONE.replace("/", "-")]}}
    path.write_text(yaml.safe_dump({"version": 1, "models": models, "profiles": profiles}), encoding="utf-8")


def fill_page_cache(root: Path, names: Mapping[str, Promise]) -> None:
    """Read what will be served once, so that no client pays for the disk of the server."""
    buffer = bytearray(_CHUNK_BYTES)
    for name in names:
        with (root / REPO / name).open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


@dataclass(frozen=True)
class Judgement:
    """What lies in a client's folder: paths that are not there, and paths with wrong bytes."""

    missing: tuple[str, ...]
    bad: tuple[str, ...]


def judge(folder: Path, promises: Mapping[str, Promise]) -> Judgement:
    """Hash every promised file in `folder` with this process's own eyes, whatever its client said."""
    missing, bad = [], []
    for name, promise in promises.items():
        path = folder / name
        if not path.is_file():
            missing.append(name)
        elif path.stat().st_size != promise.size or _sha256(path) != promise.sha256:
            bad.append(name)
    return Judgement(tuple(missing), tuple(bad))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
