"""Pictures in a row, made one at a time so that memory stays flat however long the clip.

A frame is an array of shape (height, width, 3), 8 bits a channel, RGB. Every kind can be iterated more than
once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Frame = NDArray[np.uint8]

RESAMPLING = {
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Frames(Protocol):
    """A row of pictures of one size."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def count(self) -> int: ...
    def frames(self) -> Iterator[Frame]: ...


@dataclass(frozen=True)
class Flat:
    """One colour throughout, `0xRRGGBB`."""

    width: int
    height: int
    count: int
    color: int = 0

    def frames(self) -> Iterator[Frame]:
        """Yield the pictures."""
        rgb = (self.color >> 16 & 255, self.color >> 8 & 255, self.color & 255)
        frame = np.full((self.height, self.width, 3), rgb, np.uint8)
        for _ in range(self.count):
            yield frame


@dataclass(frozen=True)
class Stills:
    """Pictures that are in memory already, such as a loaded image."""

    pictures: tuple[Frame, ...]

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.pictures[0].shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.pictures[0].shape[0])

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.pictures)

    def frames(self) -> Iterator[Frame]:
        """Yield the pictures."""
        yield from self.pictures


@dataclass(frozen=True)
class FromFile:
    """The pictures of a video file."""

    path: Path
    width: int
    height: int
    count: int

    def frames(self) -> Iterator[Frame]:
        """Decode the file and yield its pictures."""
        with av.open(str(self.path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


@dataclass(frozen=True)
class Each:
    """Another row with `change` made to each picture, which must give the size stated here."""

    source: Frames
    width: int
    height: int
    change: Callable[[Frame], Frame]

    @property
    def count(self) -> int:
        """How many there are."""
        return self.source.count

    def frames(self) -> Iterator[Frame]:
        """Yield the changed pictures."""
        return map(self.change, self.source.frames())


@dataclass(frozen=True)
class Part:
    """`count` pictures of another row, from number `start`."""

    source: Frames
    start: int
    count: int

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.source.width

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.source.height

    def frames(self) -> Iterator[Frame]:
        """Yield the pictures."""
        return islice(self.source.frames(), self.start, self.start + self.count)


@dataclass(frozen=True)
class Pair:
    """Two rows combined picture by picture; a shorter second row repeats its last picture."""

    first: Frames
    second: Frames
    combine: Callable[[Frame, Frame], Frame]

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.first.width

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.first.height

    @property
    def count(self) -> int:
        """How many there are."""
        return self.first.count

    def frames(self) -> Iterator[Frame]:
        """Yield the combined pictures."""
        others = scaled(self.second, self.width, self.height).frames()
        other = next(others)
        for frame in self.first.frames():
            yield self.combine(frame, other)
            other = next(others, other)


def scaled(
    source: Frames, width: int, height: int, method: str = "bilinear", crop: str = "disabled"
) -> Frames:
    """Return `source` at another size; with `crop` "center" its sides are cut off rather than squeezed."""
    if (source.width, source.height) == (width, height):
        return source
    box: tuple[float, float, float, float] | None = None
    if crop == "center":
        keep_w = min(source.width, source.height * width / height)
        keep_h = min(source.height, source.width * height / width)
        left, top = (source.width - keep_w) / 2, (source.height - keep_h) / 2
        box = (left, top, left + keep_w, top + keep_h)

    def resize(frame: Frame) -> Frame:
        return np.asarray(Image.fromarray(frame).resize((width, height), RESAMPLING[method], box))

    return Each(source, width, height, resize)


def inverted(source: Frames) -> Frames:
    """Return the negative."""
    return Each(source, source.width, source.height, lambda frame: 255 - frame)


def edges(source: Frames) -> Frames:
    """Return white outlines on black: a simple filter that stands in for Canny's."""

    def find(frame: Frame) -> Frame:
        grey = Image.fromarray(frame).convert("L").filter(ImageFilter.FIND_EDGES)
        return np.asarray(grey.point(lambda level: 255 if level > 40 else 0).convert("RGB"))

    return Each(source, source.width, source.height, find)


def load_image(path: Path) -> tuple[Stills, Stills]:
    """Return the picture of an image file and its mask: white where transparent. Raises PIL's errors."""
    with Image.open(path) as image:
        full = image.convert("RGBA")
    alpha = full.getchannel("A").point(lambda level: 255 - level)
    picture = Stills((np.asarray(full.convert("RGB")),))
    return picture, Stills((np.asarray(alpha.convert("RGB")),))
