"""Sound, made in short pieces so that memory stays flat: silence, a tone, or what a file has."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

#: Samples of shape (channels, samples), between -1 and 1.
Samples = NDArray[np.float32]

PIECE = 1024
#: LTX-2's decoder gives stereo at this rate (ComfyUI's audio VAE).
LTX_RATE = 24_000
#: Latent frames of sound a second.
LATENTS_PER_SECOND = 25
VOLUME = 0.25


@dataclass(frozen=True)
class Audio:
    """`samples` samples a channel at `rate` a second: silence, a tone of `hertz`, or the sound of `path`."""

    rate: int
    channels: int
    samples: int
    hertz: float = 0.0
    path: Path | None = None

    @property
    def layout(self) -> str:
        """The channels as FFmpeg names them."""
        return "mono" if self.channels == 1 else "stereo"

    def trimmed(self, seconds: float) -> "Audio":
        """Return no more than `seconds` of it."""
        return replace(self, samples=min(self.samples, int(np.ceil(seconds * self.rate))))

    def pieces(self) -> Iterator[Samples]:
        """Yield the sound in pieces of at most 1024 samples."""
        source = self._decoded() if self.path else self._made()
        left = self.samples
        for piece in source:
            if left <= 0:
                return
            yield piece[:, :left]
            left -= piece.shape[1]

    def _made(self) -> Iterator[Samples]:
        for start in range(0, self.samples, PIECE):
            time = np.arange(start, min(start + PIECE, self.samples), dtype=np.float64) / self.rate
            wave = VOLUME * np.sin(2 * np.pi * self.hertz * time) if self.hertz else np.zeros(len(time))
            yield np.repeat(wave.astype(np.float32)[None, :], self.channels, axis=0)

    def _decoded(self) -> Iterator[Samples]:
        resampler = av.AudioResampler("fltp", self.layout, self.rate, frame_size=PIECE)
        with av.open(str(self.path)) as container:
            for frame in container.decode(audio=0):
                for out in resampler.resample(frame):
                    yield out.to_ndarray().astype(np.float32, copy=False)
        for out in resampler.resample(None):
            yield out.to_ndarray().astype(np.float32, copy=False)


def tone(latents: int, hertz: float) -> Audio:
    """Return what stands for LTX-2's sound: a steady tone as long as that many latent frames decode to.

    A latent frame is four spectrogram frames of 240 samples, the first only one of them (ComfyUI's audio
    VAE).
    """
    return Audio(LTX_RATE, 2, max(4 * latents - 3, 1) * 240, hertz)
