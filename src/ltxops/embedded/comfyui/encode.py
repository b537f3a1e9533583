"""Writes films, sound and pictures with PyAV and Pillow, a frame at a time."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream
from PIL import Image

from ltxops.embedded.comfyui.audio import Audio, Samples
from ltxops.embedded.comfyui.frames import Frame, Frames
from ltxops.embedded.comfyui.pattern import LABEL
from ltxops.embedded.comfyui.values import Video

#: Called between frames; raises to stop the work.
Check = Callable[[], None]

WEBM_ENCODERS = {"vp9": ("libvpx-vp9", "yuv420p"), "av1": ("libsvtav1", "yuv420p10le")}


def write_mp4(path: Path, video: Video, notes: dict[str, str], check: Check) -> None:
    """Write H.264 and, where there is sound, AAC. `notes` becomes metadata, as ComfyUI keeps the graph there.

    The sound is cut at the end of the picture, as ComfyUI's SaveVideo does. Raises ValueError for sizes
    that H.264 in 4:2:0 cannot hold.
    """
    images = video.images
    if images.width % 2 or images.height % 2:
        raise ValueError(f"H.264 needs an even width and height, this is {images.width}x{images.height}")
    with av.open(str(path), "w", format="mp4", options={"movflags": "use_metadata_tags"}) as container:
        container.metadata.update({"comment": LABEL, **notes})
        stream = container.add_stream("libx264", rate=_rate(video.fps), options={"preset": "ultrafast"})
        stream.width, stream.height = images.width, images.height
        stream.pix_fmt = "yuv420p10le" if video.bit_depth > 8 else "yuv420p"
        track = _Track(container, video.audio, images.count / video.fps) if video.audio else None
        for number, frame in enumerate(images.frames(), start=1):
            check()
            _encode_frame(container, stream, frame)
            if track:
                track.write_until(number / video.fps)
        container.mux(stream.encode(None))
        if track:
            track.finish()


def write_webm(path: Path, images: Frames, codec: str, fps: float, crf: float, check: Check) -> None:
    """Write VP9 or AV1 without sound, as ComfyUI's SaveWEBM does."""
    encoder, pixels = WEBM_ENCODERS[codec]
    options = {"crf": str(round(crf)), **({"preset": "10"} if codec == "av1" else {"cpu-used": "8"})}
    with av.open(str(path), "w", format="webm") as container:
        container.metadata["comment"] = LABEL
        stream = container.add_stream(encoder, rate=_rate(fps), options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = images.width, images.height, pixels, 0
        for frame in images.frames():
            check()
            _encode_frame(container, stream, frame)
        container.mux(stream.encode(None))


def write_flac(path: Path, audio: Audio, check: Check) -> None:
    """Write sound alone."""
    with av.open(str(path), "w", format="flac") as container:
        track = _Track(container, audio, audio.samples / audio.rate, "flac")
        for second in range(audio.samples // audio.rate + 1):
            check()
            track.write_until(second + 1)
        track.finish()


def write_png(frame: Frame, path: Path) -> None:
    """Write one picture, quickly rather than small."""
    Image.fromarray(frame).save(path, format="PNG", compress_level=1)


def _rate(fps: float) -> Fraction:
    """Return frames a second to a thousandth, as ComfyUI writes it."""
    return Fraction(round(fps * 1000), 1000)


def _encode_frame(container: OutputContainer, stream: VideoStream, frame: Frame) -> None:
    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))


class _Track:
    """The sound of a file being written, kept just ahead of the picture so that nothing piles up."""

    def __init__(
        self, container: OutputContainer, audio: Audio, seconds: float, encoder: str = "aac"
    ) -> None:
        self.container = container
        self.audio = audio.trimmed(seconds)
        stream = container.add_stream(encoder, rate=audio.rate, layout=audio.layout)
        assert isinstance(stream, AudioStream)
        self.stream = stream
        self.resampler = av.AudioResampler("s16" if encoder == "flac" else "fltp", audio.layout, audio.rate)
        self.pieces: Iterator[Samples] = self.audio.pieces()
        self.written = 0

    def write_until(self, seconds: float) -> None:
        """Encode pieces up to this time in the film."""
        while self.written < seconds * self.audio.rate:
            if not self._next():
                return

    def finish(self) -> None:
        """Encode what is left and flush the encoder."""
        while self._next():
            pass
        self.container.mux(self.stream.encode(None))

    def _next(self) -> bool:
        with suppress(StopIteration):
            piece = next(self.pieces)
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=self.audio.layout)
            frame.sample_rate = self.audio.rate
            frame.time_base = Fraction(1, self.audio.rate)
            frame.pts = self.written
            for out in self.resampler.resample(frame):
                self.container.mux(self.stream.encode(out))
            self.written += frame.samples
            return True
        return False
