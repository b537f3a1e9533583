"""What travels along a graph's links here: descriptions of what a GPU would have computed."""

import hashlib
from dataclasses import dataclass, replace

from ltxops.embedded.comfyui.audio import Audio
from ltxops.embedded.comfyui.frames import Frames

#: LTX-2's latent grid: pixels a cell, frames a latent frame (contract README).
LTX_CELL = 32
LTX_STRIDE = 8


@dataclass(frozen=True)
class Weights:
    """Weights that a loader has opened: a MODEL, CLIP, VAE or upscale model, by the file's name."""

    name: str


@dataclass(frozen=True)
class Vae(Weights):
    """A VAE with the pixels a cell and frames a latent frame that it encodes to."""

    cell: int = LTX_CELL
    stride: int = LTX_STRIDE


@dataclass(frozen=True)
class Conditioning:
    """A prompt, and how many latent frames of guides were appended for it."""

    text: str
    guide_frames: int = 0


@dataclass(frozen=True)
class Guider:
    """What a sampler follows."""

    positive: Conditioning


@dataclass(frozen=True)
class Noise:
    """The seed of a sampling."""

    seed: int


@dataclass(frozen=True)
class Latent:
    """A grid of `columns` by `rows` cells over `frames` latent frames, `batch` times.

    `audio_frames` is how many latent frames of sound go with it; 0 columns: there is sound alone. `seed` is
    None until something was sampled. `picture` is what was encoded into it.
    """

    columns: int = 0
    rows: int = 0
    frames: int = 0
    batch: int = 1
    cell: int = LTX_CELL
    stride: int = LTX_STRIDE
    audio_frames: int = 0
    seed: int | None = None
    text: str = ""
    picture: Frames | None = None

    @property
    def has_video(self) -> bool:
        """True unless there is sound alone."""
        return self.columns > 0

    @property
    def pixel_frames(self) -> int:
        """How many frames one clip decodes to."""
        return (self.frames - 1) * self.stride + 1

    def sampled(self, seed: int, text: str) -> "Latent":
        """Return what sampling makes of it: every seed on the way counts, as in a second stage."""
        mixed = hashlib.blake2b(f"{self.seed}|{seed}".encode(), digest_size=7).digest()
        return replace(self, seed=int.from_bytes(mixed, "big"), text=text)


@dataclass(frozen=True)
class Video:
    """Frames at a rate a second, with or without sound."""

    images: Frames
    fps: float
    audio: Audio | None = None
    bit_depth: int = 8


def latent_frames(length: int, stride: int = LTX_STRIDE) -> int:
    """Return how many latent frames hold `length` frames (contract README)."""
    return (length - 1) // stride + 1
