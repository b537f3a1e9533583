"""The moving test pattern that stands where LTX-2 would have put a film.

It differs with seed and prompt, so that two requests can be told apart, and carries words that no one can
overlook.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ltxops.embedded.comfyui.frames import Frame, Frames, scaled

LABEL = "embedded engine, not LTX-2"


@dataclass(frozen=True)
class TestPattern:
    """`batch` clips of `length` frames one after the other. A `picture` becomes the moving background."""

    __test__ = False  # pytest would take the name for a test's

    width: int
    height: int
    length: int
    batch: int
    seed: int
    text: str
    picture: Frames | None = None

    @property
    def count(self) -> int:
        """How many frames there are in all clips."""
        return self.length * self.batch

    def frames(self) -> Iterator[Frame]:
        """Yield the frames."""
        for clip in range(self.batch):
            yield from self._clip(digest(self.seed, self.text, clip))

    def _clip(self, noise: bytes) -> Iterator[Frame]:
        strip = _background(self.width, self.height, noise, self.picture)
        caption = _caption(self.width, self.height)
        top = self.height - caption.shape[0]
        side = max(2, min(self.width, self.height) // 6)
        speed = max(1, self.width // 160) * (1 + noise[0] % 3)
        for number in range(self.length):
            shift = number * speed % self.width
            frame = strip[:, shift : shift + self.width].copy()
            x = _bounce(noise[1] + number * speed * 2, self.width - side)
            y = _bounce(noise[2] + number * speed, self.height - side)
            frame[y : y + side, x : x + side] = 255 - frame[y : y + side, x : x + side]
            frame[top:, : caption.shape[1]] = caption
            yield frame


def digest(seed: int, text: str, clip: int) -> bytes:
    """Return bytes that look like chance but follow from what the job asked for."""
    return hashlib.blake2b(f"{seed}|{clip}|{text}".encode(), digest_size=16).digest()


def _bounce(distance: int, room: int) -> int:
    """Return where something is that has gone `distance` pixels back and forth in `room` pixels."""
    if room < 1:
        return 0
    place = distance % (2 * room)
    return place if place < room else 2 * room - place


def _background(width: int, height: int, noise: bytes, picture: Frames | None) -> Frame:
    """Return a strip twice as wide as the frame whose halves join, so that a window over it can go round."""
    if picture is not None:
        still = next(scaled(picture, width, height, crop="center").frames())
        return np.concatenate([still, still], axis=1)
    across = np.arange(width, dtype=np.float32) * (2 * np.pi / width)
    down = np.arange(height, dtype=np.float32) * (2 * np.pi / height)
    half = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        turns, phase = 1 + noise[3 + channel] % 3, noise[6 + channel] / 40
        rows = 50 * np.cos(down * (1 + noise[9 + channel] % 3) + phase)
        half[:, :, channel] = (128 + 60 * np.sin(across * turns + phase))[None, :] + rows[:, None]
    return np.concatenate([half, half], axis=1)


def _caption(width: int, height: int) -> Frame:
    """Return a black box with the label in white, in as many lines as the width asks for."""
    size = max(8, min(32, height // 14))
    font = ImageFont.load_default(size)
    lines: list[str] = []
    for word in LABEL.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width - 4:
            lines[-1] = longer
        else:
            lines.append(word)
    text = "\n".join(lines)
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((2, 2), text, font)
    box = Image.new("RGB", (min(width, int(right + left)), min(height, int(bottom + top))))
    ImageDraw.Draw(box).multiline_text((2, 2), text, "white", font)
    return np.asarray(box)
