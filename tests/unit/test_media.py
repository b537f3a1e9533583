"""A video is judged by what can be decoded: each fault is made with a real encoder and must be named."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from ltxops.errors import CheckFailed
from ltxops.generation import media, report
from ltxops.generation.workflows import ExpectedVideo

EXPECTED = ExpectedVideo(width=320, height=192, frames=25, frame_rate=24.0, lively=True)

Picture = Callable[[int], Any]


def moving(index: int) -> Any:
    picture = np.full((192, 320, 3), 40, np.uint8)
    picture[40:120, 6 * index : 6 * index + 60] = (220, 180, 90)
    return picture


def frozen(index: int) -> Any:
    return moving(5)


def frozen_late(index: int) -> Any:
    return moving(min(index, 6))


def black(index: int) -> Any:
    return np.zeros((192, 320, 3), np.uint8)


def make(
    path: Path,
    picture: Picture = moving,
    *,
    frames: int = 25,
    rate: int = 24,
    codec: str = "libx264",
    loudness: float | None = 0.2,
    sound_seconds: float = 25 / 24,
) -> Path:
    """Encode a video; `loudness` None leaves the audio track out."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(codec, rate=rate)
        video.width, video.height, video.pix_fmt = 320, 192, "yuv420p"
        audio: Any = (
            container.add_stream("aac", rate=48000, layout="stereo") if loudness is not None else None
        )
        for index in range(frames):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")))
        container.mux(video.encode())
        if audio is not None and loudness is not None:
            count = round(48000 * sound_seconds)
            wave = loudness * np.sin(2 * np.pi * 440 * np.arange(count) / 48000)
            samples = np.stack([wave, wave]).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
            frame.sample_rate, frame.time_base = 48000, Fraction(1, 48000)
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


def complaints(path: Path, expected: ExpectedVideo = EXPECTED) -> list[str]:
    return media.judge(media.probe(path), expected)


def test_a_good_video_is_measured_and_passes(tmp_path: Path) -> None:
    seen = media.probe(make(tmp_path / "good.mp4"))
    assert (seen.width, seen.height, seen.frames, seen.frame_rate, seen.codec) == (320, 192, 25, 24.0, "h264")
    assert seen.seconds == pytest.approx(25 / 24, abs=0.01)
    assert seen.motion > 50
    assert seen.longest_still_frames == 1
    assert seen.audio is not None
    assert (seen.audio.codec, seen.audio.sample_rate, seen.audio.channels) == ("aac", 48000, 2)
    # A sine of 0.2 of full scale: its peak is 20·log10(0.2), its RMS 3 dB below.
    assert seen.audio.peak_dbfs == pytest.approx(-14.0, abs=0.5)
    assert seen.audio.rms_dbfs == pytest.approx(-17.0, abs=0.5)
    assert seen.audio.seconds == pytest.approx(25 / 24, abs=0.05)
    assert media.judge(seen, EXPECTED) == []


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"picture": frozen}, "the picture is frozen: nothing changes by more than"),
        ({"picture": frozen_late}, "the picture stands still for 19 of 25 frames"),
        ({"picture": black}, "the picture is one flat colour"),
        ({"loudness": 0.0}, "the sound is silent at -120 dBFS"),
        ({"loudness": 0.0002}, "the sound is silent at -7"),
        ({"loudness": None}, "there is no audio track, expected one"),
        ({"sound_seconds": 0.2}, "the sound lasts 0.2"),
        ({"frames": 24}, "24 frames can be decoded, expected 25"),
        ({"rate": 30}, "the rate is 30 frames/s, expected 24"),
        ({"codec": "mpeg4"}, "the picture is coded as mpeg4, expected h264"),
    ],
)
def test_each_fault_is_named_and_only_that_one(tmp_path: Path, fault: dict[str, Any], sentence: str) -> None:
    found = complaints(make(tmp_path / "fault.mp4", **fault))
    assert len(found) == 1
    assert found[0].startswith(sentence)


def test_a_wrong_size_and_a_wrong_container_are_named(tmp_path: Path) -> None:
    assert complaints(make(tmp_path / "good.mp4"), replace(EXPECTED, width=640)) == [
        "the size is 320 x 192, expected 640 x 192"
    ]
    assert complaints(make(tmp_path / "good.mkv")) == ["the container is matroska,webm, expected mp4"]


def test_the_check_case_may_be_flat_and_silent_but_not_without_sound(tmp_path: Path) -> None:
    plain = replace(EXPECTED, lively=False)
    assert complaints(make(tmp_path / "flat.mp4", black, loudness=0.0), plain) == []
    assert complaints(make(tmp_path / "mute.mp4", black, loudness=None), plain) == [
        "there is no audio track, expected one"
    ]


def test_a_file_that_is_cut_short_or_no_video_is_refused(tmp_path: Path) -> None:  # R19
    whole = make(tmp_path / "whole.mp4").read_bytes()
    for name, content in (
        ("cut.mp4", whole[: len(whole) // 2]),
        ("page.mp4", b"<html>sign in</html>"),
        ("empty.mp4", b""),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CheckFailed, match="cannot be decoded as a video"):
            media.probe(path)
    with pytest.raises(CheckFailed, match="absent"):
        media.probe(tmp_path / "absent.mp4")


def test_a_sound_file_has_no_picture_to_judge(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        audio: Any = container.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
    with pytest.raises(CheckFailed, match="holds no video track"):
        media.probe(tmp_path / "sound.mp4")


def test_the_contact_sheet_shows_frames_of_the_whole_clip_over_a_caption(tmp_path: Path) -> None:
    video = make(tmp_path / "good.mp4")
    report.write_contact_sheet(video, 25, "check: 320 x 192", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as opened:
        sheet = opened.convert("L")
    assert sheet.size == (4 * 326 + 6, 3 * 198 + 6 + 44)
    first = sheet.crop((6, 6, 326, 198))
    last = sheet.crop((6 + 3 * 326, 6 + 2 * 198, 326 + 3 * 326, 198 + 2 * 198))
    # The bright block starts at the left edge in the first frame and is at 144 in the last.
    assert first.getpixel((20, 80)) > 150 > first.getpixel((170, 80))
    assert last.getpixel((170, 80)) > 150 > last.getpixel((20, 80))
    caption = sheet.crop((0, sheet.height - 44, sheet.width, sheet.height))
    assert caption.getextrema()[1] > 200
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
