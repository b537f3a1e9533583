"""A job's files get a second name in the folder of the job, and nobody else's file is touched."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from ltxops.errors import CheckFailed
from ltxops.generation.comfyui import ComfyClient, OutputFile
from ltxops.wrapper.outputs import collect_outputs, give_second_name, held_paths, job_directory, source_in
from ltxops.wrapper.schema import OutputItem


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file where ComfyUI puts it."""
    path = tmp_path / "output" / "video" / "clip_00001_.mp4"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"clip")
    return path


def test_the_file_is_one_file_under_two_names(source: Path, tmp_path: Path) -> None:
    folder = job_directory(tmp_path / "output", "job-1")
    place = give_second_name(source, folder, source.name)
    assert place == tmp_path / "output" / "job-1" / "clip_00001_.mp4"
    assert place.samefile(source) and source.stat().st_nlink == 2
    assert give_second_name(source, folder, source.name) == place, "again is the same"
    assert list(folder.iterdir()) == [place]


def test_the_name_of_another_file_is_left_alone(source: Path, tmp_path: Path) -> None:
    folder = job_directory(tmp_path / "output", "job-1")
    (folder / source.name).write_bytes(b"somebody else's")
    place = give_second_name(source, folder, source.name)
    assert place.name == "clip_00001_-2.mp4" and place.samefile(source)
    assert (folder / source.name).read_bytes() == b"somebody else's"


def test_where_a_link_is_impossible_a_copy_is_made(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(errno.EXDEV, "another device")

    monkeypatch.setattr(os, "link", refuse)
    folder = job_directory(tmp_path / "output", "job-1")
    place = give_second_name(source, folder, source.name)
    assert place.read_bytes() == b"clip" and not place.samefile(source)
    assert give_second_name(source, folder, source.name) == place, "again makes no second copy"
    other = tmp_path / "output" / "clip_00001_.mp4"
    other.write_bytes(b"other")
    assert give_second_name(other, folder, other.name).read_bytes() == b"other"
    assert place.read_bytes() == b"clip"
    assert sorted(path.name for path in folder.iterdir()) == ["clip_00001_-2.mp4", "clip_00001_.mp4"]


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(errno.EPERM, "not yours")

    monkeypatch.setattr(os, "link", refuse)
    folder = job_directory(tmp_path, "job-1")
    with pytest.raises(OSError):
        give_second_name(tmp_path / "is-not-there.mp4", folder, "clip.mp4")
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").write_text("")
    for name in ("link", "file"):
        with pytest.raises(CheckFailed, match="in the way"):
            job_directory(tmp_path, name)


def test_an_output_outside_the_output_folder_is_never_linked(source: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    root = tmp_path / "output"
    (root / "way-out").symlink_to(tmp_path)
    for subfolder in ("..", "../", "video/../..", str(tmp_path), "way-out"):
        with pytest.raises(CheckFailed, match="outside"):
            source_in(root, subfolder, "secret.txt")
    assert source_in(root, "video", source.name) == source
    assert source_in(root, "video", "missing.mp4") is None


def test_two_comfyuis_that_chose_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("", "gpu.1"):
        video = tmp_path / folder / "video"
        video.mkdir(parents=True)
        (video / "clip_00001_.mp4").write_text(folder or "first", encoding="utf-8")
    file = OutputFile("clip_00001_.mp4", "video", "output", "9", "videos")

    async def collect(request_id: str, subfolder: str) -> OutputItem:
        async with ComfyClient("http://127.0.0.1:1") as client:
            return (await collect_outputs(client, [file], tmp_path, request_id, subfolder=subfolder))[0]

    first, second = asyncio.run(collect("a", "")), asyncio.run(collect("b", "gpu.1"))
    assert [Path(item.local_path).read_text() for item in (first, second)] == ["first", "gpu.1"]
    assert (first.subfolder, second.subfolder) == ("video", "gpu.1/video")
    assert held_paths([second], tmp_path) == [
        str(tmp_path / "b/clip_00001_.mp4"),
        str(tmp_path / "gpu.1/video/clip_00001_.mp4"),
    ]
