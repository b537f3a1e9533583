"""What is really in a video file, found by decoding all of it, and whether that is what was asked for.

A header can promise what the stream does not hold, so frames are counted, compared and measured one by one.
Memory stays flat: of each frame only a small grid of brightness is looked at.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from ltxops.errors import CheckFailed
from ltxops.generation.workflows import ExpectedVideo

#: Columns and rows of the brightness grid.
_GRID = (64, 36)
#: What digital silence is reported as, in dBFS; a logarithm has no number for it.
_SILENCE_DBFS = -120.0

#: Thresholds of `judge`. Encoding noise in a still picture moves a grid cell by about one level of 255.
_FROZEN_LEVELS = 4.0
_STILL_LEVELS = 0.5
_STILL_SHARE = 0.5
_FLAT_LEVELS = 3.0
_SILENT_DBFS = -60.0
_RATE_TOLERANCE = 0.01
#: Seconds that sound and picture may differ in length: codec padding, and LTX-2's own audio latent rounding.
_LENGTH_TOLERANCE_SECONDS = 0.5

Luma = NDArray[np.float32]


@dataclass(frozen=True)
class AudioProbe:
    """An audio track: samples a second, channels, seconds decoded, loudness in dBFS (0 is full scale)."""

    codec: str
    sample_rate: int
    channels: int
    seconds: float
    peak_dbfs: float
    rms_dbfs: float


@dataclass(frozen=True)
class VideoProbe:
    """A decoded video: pixels, frames, frames a second, seconds; brightness in levels of 0 to 255.

    `motion`: the largest change of any grid cell against the first frame. `longest_still_frames`: the longest
    run of frames in which nothing changes from one to the next. `contrast`: the largest standard deviation of
    brightness within a frame.
    """

    container: str
    codec: str
    width: int
    height: int
    frames: int
    frame_rate: float
    seconds: float
    bytes: int
    brightness: float
    contrast: float
    motion: float
    longest_still_frames: int
    audio: AudioProbe | None


class _Picture:
    """Measures of the frames, one after the other."""

    def __init__(self) -> None:
        self.frames, self.motion, self.contrast, self.total = 0, 0.0, 0.0, 0.0
        self.still, self.longest_still = 1, 0
        self._first: Luma | None = None
        self._previous: Luma | None = None

    def add(self, luma: Luma) -> None:
        if self._first is None or self._previous is None:
            self._first = luma
        else:
            self.motion = max(self.motion, float(np.abs(luma - self._first).max()))
            moved = float(np.abs(luma - self._previous).max()) >= _STILL_LEVELS
            self.still = 1 if moved else self.still + 1
        self.longest_still = max(self.longest_still, self.still)
        self.contrast = max(self.contrast, float(luma.std()))
        self.total += float(luma.mean())
        self.frames += 1
        self._previous = luma


class _Sound:
    """Measures of the samples, as floats of -1 to 1 whatever the track's own format."""

    def __init__(self) -> None:
        self.peak, self.squares, self.samples, self.values = 0.0, 0.0, 0, 0
        self._resampler = av.AudioResampler(format="fltp")

    def add(self, frame: av.AudioFrame) -> None:
        for part in self._resampler.resample(frame):
            values = part.to_ndarray().astype(np.float64)
            self.peak = max(self.peak, float(np.abs(values).max(initial=0.0)))
            self.squares += float(np.square(values).sum())
            self.values += values.size
            self.samples += part.samples

    def probe(self, codec: str, sample_rate: int, channels: int) -> AudioProbe:
        rms = math.sqrt(self.squares / self.values) if self.values else 0.0
        seconds = round(self.samples / sample_rate, 3)
        return AudioProbe(codec, sample_rate, channels, seconds, _dbfs(self.peak), _dbfs(rms))


def probe(path: Path) -> VideoProbe:
    """Decode a video from end to end. Raises CheckFailed when it cannot be decoded or has no picture."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise CheckFailed(f"{path} holds no video track")
            video = container.streams.video[0]
            video.thread_type = "AUTO"
            audio = container.streams.audio[0] if container.streams.audio else None
            picture, sound = _Picture(), _Sound()
            for frame in container.decode([video, audio] if audio else [video]):
                if isinstance(frame, av.VideoFrame):
                    small = frame.reformat(
                        width=_GRID[0], height=_GRID[1], format="gray", interpolation="AREA"
                    )
                    picture.add(small.to_ndarray().astype(np.float32))
                elif isinstance(frame, av.AudioFrame):
                    sound.add(frame)
            rate = float(video.average_rate or 0)
            return VideoProbe(
                container=container.format.name,
                codec=video.codec_context.name,
                width=video.codec_context.width,
                height=video.codec_context.height,
                frames=picture.frames,
                frame_rate=round(rate, 4),
                seconds=round(picture.frames / rate, 3) if rate else 0.0,
                bytes=path.stat().st_size,
                brightness=round(picture.total / max(1, picture.frames), 2),
                contrast=round(picture.contrast, 2),
                motion=round(picture.motion, 2),
                longest_still_frames=picture.longest_still,
                audio=sound.probe(
                    audio.codec_context.name, audio.codec_context.sample_rate, audio.codec_context.channels
                )
                if audio is not None
                else None,
            )
    except (av.FFmpegError, OSError) as error:
        raise CheckFailed(f"{path} cannot be decoded as a video: {error}") from error


def judge(seen: VideoProbe, expected: ExpectedVideo) -> list[str]:
    """Return what is wrong with a video, a sentence each with what was seen and what was expected."""
    found: list[str] = []
    if "mp4" not in seen.container.split(","):
        found.append(f"the container is {seen.container}, expected mp4")
    if seen.codec != "h264":
        found.append(f"the picture is coded as {seen.codec}, expected h264")
    if (seen.width, seen.height) != (expected.width, expected.height):
        found.append(
            f"the size is {seen.width} x {seen.height}, expected {expected.width} x {expected.height}"
        )
    if seen.frames != expected.frames:
        found.append(f"{seen.frames} frames can be decoded, expected {expected.frames}")
    if abs(seen.frame_rate - expected.frame_rate) > _RATE_TOLERANCE * expected.frame_rate:
        found.append(f"the rate is {seen.frame_rate:g} frames/s, expected {expected.frame_rate:g}")
    found += _judge_sound(seen, expected)
    return found + (_judge_picture(seen) if expected.lively else [])


def _judge_sound(seen: VideoProbe, expected: ExpectedVideo) -> list[str]:
    audio = seen.audio
    if audio is None:
        return ["there is no audio track, expected one"]
    found: list[str] = []
    if audio.codec != "aac":
        found.append(f"the sound is coded as {audio.codec}, expected aac")
    wanted = expected.frames / expected.frame_rate
    if abs(audio.seconds - wanted) > _LENGTH_TOLERANCE_SECONDS:
        found.append(f"the sound lasts {audio.seconds:g} s, expected {wanted:.3g} s like the picture")
    if expected.lively and audio.rms_dbfs < _SILENT_DBFS:
        found.append(f"the sound is silent at {audio.rms_dbfs:g} dBFS, expected more than {_SILENT_DBFS:g}")
    return found


def _judge_picture(seen: VideoProbe) -> list[str]:
    if seen.contrast < _FLAT_LEVELS:
        return [
            f"the picture is one flat colour: contrast {seen.contrast:g} of 255, expected {_FLAT_LEVELS:g}"
        ]
    if seen.motion < _FROZEN_LEVELS:
        return [
            f"the picture is frozen: nothing changes by more than {seen.motion:g} levels of 255 in "
            f"{seen.frames} frames, expected {_FROZEN_LEVELS:g}"
        ]
    if seen.longest_still_frames > max(2.0, _STILL_SHARE * seen.frames):
        return [
            f"the picture stands still for {seen.longest_still_frames} of {seen.frames} frames, expected "
            "less than half"
        ]
    return []


def _dbfs(amplitude: float) -> float:
    return max(_SILENCE_DBFS, round(20 * math.log10(amplitude), 1)) if amplitude > 0 else _SILENCE_DBFS
