"""What the embedded engine renders, decoded again: sizes, lengths, rates and sound that LTX-2 would give."""

import json
import struct
import threading
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.support import wait_for

from ltxops.embedded.comfyui.catalog import INPUT_FOLDERS, catalog, recorded, upload_checks
from ltxops.embedded.comfyui.executor import Executor
from ltxops.embedded.comfyui.jobs import Job, Outcome
from ltxops.embedded.comfyui.options import Folders, folders_under
from ltxops.embedded.comfyui.reporter import Reporter
from ltxops.embedded.comfyui.validate import validate

Graph = dict[str, dict[str, Any]]
HEADER = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
SHARDS = "models/text_encoders/gemma-3-12b-it-qat-q4_0-unquantized"


@dataclass
class Movie:
    """A decoded file."""

    width: int
    height: int
    fps: float
    codecs: list[str]
    frames: list[NDArray[np.uint8]]
    sound: NDArray[np.float32]
    rate: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.width, self.height, len(self.frames)


def decode(path: Path) -> Movie:
    """Decode a whole film."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        codecs = [stream.codec_context.name for stream in container.streams]
        fps = float(video.average_rate or 0)
        frames = [frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in container.decode(video=0)]
        size = video.width, video.height
    sound, rate = np.zeros((0, 0), np.float32), 0
    with av.open(str(path)) as container:
        if container.streams.audio:
            rate = container.streams.audio[0].rate
            pieces = [frame.to_ndarray().astype(np.float32) for frame in container.decode(audio=0)]
            sound = np.concatenate(pieces, axis=1)
    return Movie(*size, fps, codecs, frames, sound, rate)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Return folders with tiny valid weights under every recorded name."""
    weight = struct.pack("<Q", len(HEADER)) + HEADER + b"\0" * 4
    for node in recorded().values():
        for name, spec in node["input"].get("required", {}).items():
            if name in INPUT_FOLDERS:
                for choice in spec[0] if isinstance(spec[0], list) else spec[1]["options"]:
                    path = tmp_path / "models" / INPUT_FOLDERS[name] / choice
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(weight)
    (tmp_path / SHARDS / "tokenizer.model").write_bytes(b"tokens")
    folders = folders_under(tmp_path)
    folders.create()
    return folders


def recorded_graph(name: str) -> Graph:
    """Return a fresh copy of a recorded graph."""
    text = (files("ltxops.embedded") / "contract" / "http_and_ws.json").read_text()
    graph: Graph = json.loads(text)[name]["request"]["json"]["prompt"]
    return graph


def two_stage(seed: int = 7, prompt: str = "a prompt") -> Graph:
    """Return the recorded two-stage graph at 192 x 180 pixels and 18 frames asked for."""
    graph = recorded_graph("prompt_ok")
    graph["92:89"]["inputs"] |= {"width": 192, "height": 180}
    graph["92:62"]["inputs"]["value"] = 18
    graph["92:11"]["inputs"]["noise_seed"] = seed
    graph["92:3"]["inputs"]["text"] = prompt
    return graph


def distilled(**latent: Any) -> Graph:
    """Return the recorded single-stage graph with a small latent; `latent` changes its inputs."""
    graph = recorded_graph("prompt_ok_distilled")
    graph["4"]["inputs"] |= {"width": 128, "height": 96, "length": 9, **latent}
    return graph


def run(folders: Folders, graph: Graph, executor: Executor | None = None) -> Outcome:
    """Validate and run a graph."""
    verdict = validate(graph, catalog(folders), upload_checks(folders))
    assert verdict.error is None, verdict
    job = Job(0, "id", graph, {}, verdict.outputs)
    return (executor or Executor(folders, 0)).run(job, Reporter(job, lambda *message: None))


def result(folders: Folders, outcome: Outcome, node_id: str, kind: str = "images") -> Path:
    """Return the file that an output node lists."""
    assert outcome.succeeded, outcome.messages[-1]
    (listed,) = outcome.outputs[node_id][kind]
    return Path(folders.of_type(listed["type"]) or "", listed["subfolder"], listed["filename"])


def render(folders: Folders, graph: Graph, node_id: str) -> Movie:
    """Run a graph and decode its film."""
    return decode(result(folders, run(folders, graph), node_id))


def failure(outcome: Outcome) -> dict[str, Any]:
    """Return what a failed job says."""
    assert not outcome.succeeded
    kind, data = outcome.messages[-1]
    assert kind == "execution_error"
    assert isinstance(data, dict)
    return data


def test_two_stage_graph_is_floored_then_doubled(folders: Folders) -> None:
    movie = render(folders, two_stage(), "75")
    # 96x90 is floored to 96x64 and doubled; 18 frames are floored to 17.
    assert movie.shape == (192, 128, 17)
    assert movie.fps == 24
    assert movie.codecs == ["h264", "aac"]
    assert np.abs(movie.frames[0].astype(int) - movie.frames[-1]).mean() > 5, "the picture moves"
    assert np.abs(movie.sound).max() > 0.1, "the sound is not silence"
    assert movie.sound.shape[1] / movie.rate == pytest.approx(17 / 24, abs=0.1)


def test_distilled_graph(folders: Folders) -> None:
    movie = render(folders, distilled(), "15")
    assert movie.shape == (128, 96, 9)
    assert movie.codecs == ["h264", "aac"]


def test_a_batch_gives_both_clips_one_after_the_other(folders: Folders) -> None:
    movie = render(folders, distilled(batch_size=2), "15")
    assert movie.shape == (128, 96, 18)
    assert np.abs(movie.frames[8].astype(int) - movie.frames[9]).mean() > 10, "another clip begins"


@pytest.mark.parametrize(
    ("asked", "given"),
    [((101, 97, 10), (96, 96, 9)), ((127, 64, 16), (96, 64, 9)), ((64, 95, 1), (64, 64, 1))],
)
def test_odd_sizes_are_floored(folders: Folders, asked: tuple[int, ...], given: tuple[int, ...]) -> None:
    width, height, length = asked
    movie = render(folders, distilled(width=width, height=height, length=length), "15")
    assert movie.shape == given


def test_seed_and_prompt_change_the_film_and_nothing_else_does(folders: Folders) -> None:
    films = [
        render(folders, two_stage(seed, prompt), "75").frames[0]
        for seed, prompt in [(7, "a"), (7, "a"), (8, "a"), (7, "another")]
    ]
    assert np.array_equal(films[0], films[1])
    assert not np.array_equal(films[0], films[2])
    assert not np.array_equal(films[0], films[3])


def test_the_film_says_that_it_is_not_ltx_2(folders: Folders) -> None:
    path = result(folders, run(folders, distilled(width=512, height=512)), "15")
    with av.open(str(path)) as container:
        assert container.metadata["comment"] == "embedded engine, not LTX-2"
        assert json.loads(container.metadata["prompt"])["15"]["class_type"] == "SaveVideo"
    corner = decode(path).frames[0][-20:, :120]
    assert (corner.max(axis=2) < 40).mean() > 0.3, "the label's black box"
    assert (corner.min(axis=2) > 200).mean() > 0.03, "the label's white letters"


def flat(color: int, **more: Any) -> Graph:
    """Return a graph without weights: one colour and silence."""
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 48, "batch_size": 5, "color": color, **more},
        },
        "4": {"class_type": "EmptyAudio", "inputs": {"duration": 9.0, "sample_rate": 44100, "channels": 1}},
        "2": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 12.5, "audio": ["4", 0]}},
        "3": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["2", 0], "filename_prefix": "v/flat", "format": "auto", "codec": "h264"},
        },
    }


def test_an_empty_image_is_flat_and_empty_audio_is_silence(folders: Folders) -> None:
    movie = render(folders, flat(0xFF0000), "3")
    assert movie.shape == (64, 48, 5)
    assert movie.fps == 12.5
    for frame in movie.frames:
        assert frame.reshape(-1, 3).std(axis=0).max() < 1
        assert np.abs(frame.mean(axis=(0, 1)) - [255, 0, 0]).max() < 8
    assert np.abs(movie.sound).max() == 0
    assert movie.sound.shape[0] == 1
    assert movie.sound.shape[1] / movie.rate == pytest.approx(5 / 12.5, abs=0.05), "cut to the picture"


def test_a_size_h264_cannot_hold_fails_the_job(folders: Folders) -> None:
    error = failure(run(folders, flat(0, width=65)))
    assert error["node_type"] == "SaveVideo"
    assert "65x48" in error["exception_message"]
    assert not list((folders.output / "v").iterdir())


def test_unsampled_latents_decode_to_grey_and_silence(folders: Folders) -> None:
    graph = distilled()
    graph["11"]["inputs"]["av_latent"] = ["6", 0]
    movie = render(folders, graph, "15")
    assert np.ptp(np.stack(movie.frames).reshape(-1, 3), axis=0).max() < 4
    assert np.abs(movie.sound).max() == 0


def test_an_image_becomes_the_background(folders: Folders) -> None:
    Image.new("RGB", (300, 200), (0, 0, 200)).save(folders.input / "blue.png")
    graph = distilled()
    graph["20"] = {"class_type": "LoadImage", "inputs": {"image": "blue.png"}}
    graph["4"] = {
        "class_type": "LTXVImgToVideo",
        "inputs": {
            "positive": ["9", 0],
            "negative": ["9", 1],
            "vae": ["1", 2],
            "image": ["20", 0],
            "width": 128,
            "height": 96,
            "length": 9,
            "batch_size": 1,
            "strength": 1.0,
        },
    }
    graph["6"]["inputs"]["video_latent"] = ["4", 2]
    movie = render(folders, graph, "15")
    assert movie.shape == (128, 96, 9)
    assert (movie.frames[0][:, :, 2] > 150).mean() > 0.6


def test_guides_lengthen_the_latent_until_they_are_cropped(folders: Folders) -> None:
    graph = distilled()
    guide = {"positive": ["9", 0], "negative": ["9", 1], "vae": ["1", 2], "latent": ["4", 0]}
    graph["30"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 9, "color": 0},
    }
    graph["31"] = {
        "class_type": "LTXVAddGuide",
        "inputs": {**guide, "image": ["30", 0], "frame_idx": 0, "strength": 1.0},
    }
    graph["6"]["inputs"]["video_latent"] = ["31", 2]
    assert render(folders, graph, "15").shape == (128, 96, 9 + 16), (
        "two latent frames of guide, 8 frames each"
    )
    graph["32"] = {
        "class_type": "LTXVCropGuides",
        "inputs": {"positive": ["31", 0], "negative": ["31", 1], "latent": ["11", 0]},
    }
    graph["12"]["inputs"]["samples"] = ["32", 2]
    assert render(folders, graph, "15").shape == (128, 96, 9)


def test_a_film_goes_in_and_comes_out_changed(folders: Folders) -> None:
    path = result(folders, run(folders, two_stage()), "75")
    path.rename(folders.input / "film.mp4")
    graph: Graph = {
        "1": {"class_type": "LoadVideo", "inputs": {"file": "film.mp4"}},
        "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
        "3": {"class_type": "ImageFromBatch", "inputs": {"image": ["2", 0], "batch_index": 2, "length": 4}},
        "4": {
            "class_type": "ResizeImageMaskNode",
            "inputs": {
                "input": ["3", 0],
                "resize_type": "scale longer dimension",
                "resize_type.longer_size": 96,
                "scale_method": "area",
            },
        },
        "5": {
            "class_type": "Canny",
            "inputs": {"image": ["4", 0], "low_threshold": 0.1, "high_threshold": 0.2},
        },
        "6": {
            "class_type": "ImageBlend",
            "inputs": {"image1": ["4", 0], "image2": ["5", 0], "blend_factor": 0.5, "blend_mode": "screen"},
        },
        "7": {
            "class_type": "CreateVideo",
            "inputs": {"images": ["6", 0], "fps": ["2", 2], "audio": ["2", 1], "bit_depth": ["2", 3]},
        },
        "8": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["7", 0], "filename_prefix": "changed", "format": "mp4", "codec": "auto"},
        },
    }
    movie = render(folders, graph, "8")
    assert movie.shape == (96, 64, 4)
    assert movie.fps == 24
    assert np.abs(movie.sound).max() > 0.1


def test_other_outputs(folders: Folders) -> None:
    graph = flat(0x00FF00)
    del graph["2"], graph["3"]
    graph |= {
        "5": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "still"}},
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        "7": {"class_type": "SaveAudio", "inputs": {"audio": ["4", 0], "filename_prefix": "a/sound"}},
        "8": {
            "class_type": "SaveWEBM",
            "inputs": {
                "images": ["1", 0],
                "filename_prefix": "web",
                "codec": "vp9",
                "fps": 24.0,
                "crf": 32.0,
            },
        },
    }
    outcome = run(folders, graph)
    assert outcome.succeeded, outcome.messages
    assert [item["filename"] for item in outcome.outputs["5"]["images"]] == [
        f"still_{n:05}_.png" for n in range(1, 6)
    ]
    with Image.open(folders.output / "still_00005_.png") as picture:
        assert picture.getpixel((3, 3)) == (0, 255, 0)
    assert {item["type"] for item in outcome.outputs["6"]["images"]} == {"temp"}
    assert len(list(folders.temp.iterdir())) == 5
    with av.open(str(result(folders, outcome, "7", "audio"))) as sound:
        assert sound.streams.audio[0].codec_context.name == "flac"
        assert sum(frame.samples for frame in sound.decode(audio=0)) == 9 * 44100
    movie = decode(result(folders, outcome, "8"))
    assert movie.shape == (64, 48, 5)
    assert outcome.outputs["8"]["animated"] == [True]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 4) + b"nope",
        struct.pack("<Q", len(HEADER)) + HEADER + b"\0" * 3,
    ],
    ids=["empty", "page", "length", "json", "truncated"],
)
def test_a_corrupt_weight_fails_its_job_and_the_next_one_works(folders: Folders, content: bytes) -> None:
    weight = folders.models / "loras/ltx-2-19b-distilled-lora-384.safetensors"
    good = weight.read_bytes()
    weight.write_bytes(content)
    executor = Executor(folders, 0)
    error = failure(run(folders, two_stage(), executor))
    assert error["node_id"] == "92:68"
    assert error["node_type"] == "LoraLoaderModelOnly"
    assert weight.name in error["exception_message"]
    assert error["exception_type"].endswith("SafetensorError")
    assert error["traceback"]
    weight.write_bytes(good)
    assert run(folders, two_stage(), executor).succeeded


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model-00003-of-00005.safetensors", "model-00003-of-00005.safetensors of 5 shards is missing"),
        ("tokenizer.model", "no tokenizer.model or tokenizer.json"),
    ],
)
def test_a_sharded_text_encoder_must_be_whole(folders: Folders, name: str, said: str) -> None:
    (folders.models.parent / SHARDS / name).unlink()
    error = failure(run(folders, distilled()))
    assert error["node_type"] == "LTXVGemmaCLIPModelLoader"
    assert said in error["exception_message"]


def test_a_second_run_takes_from_cache_what_did_not_change(folders: Folders) -> None:
    executor = Executor(folders, 0)
    first = run(folders, two_stage(), executor)
    again = run(folders, two_stage(), executor)
    assert again.outputs == first.outputs
    assert len(again.messages[1][1]["nodes"]) == len(two_stage())
    changed = run(folders, two_stage(seed=9), executor)
    cached = set(changed.messages[1][1]["nodes"])
    assert {"92:1", "92:60", "92:3", "92:56"} <= cached
    assert cached.isdisjoint({"92:11", "92:41", "92:70", "75"})
    assert result(folders, changed, "75").name == "LTX-2_00002_.mp4"
    executor.forget()
    assert run(folders, two_stage(seed=9), executor).messages[1][1]["nodes"] == []


def test_an_image_replaced_under_its_name_is_read_again(folders: Folders) -> None:
    graph: Graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
    }
    executor = Executor(folders, 0)
    for color in ("red", "blue"):
        Image.new("RGB", (8 if color == "red" else 9, 8), color).save(folders.input / "a.png")
        with Image.open(result(folders, run(folders, graph, executor), "2")) as picture:
            assert picture.convert("RGB").getpixel((0, 0)) == {"red": (255, 0, 0), "blue": (0, 0, 255)}[color]


def test_an_interruption_leaves_no_file(folders: Folders) -> None:
    graph = flat(0, batch_size=4096, width=2048, height=2048)
    job = Job(0, "id", graph, {}, ["3"])
    seen: list[str] = []

    def interrupt(part: Path) -> None:
        seen.extend(wait_for(lambda: [path.name for path in part.iterdir()]))
        job.cancel.set()

    (folders.output / "v").mkdir()
    watcher = threading.Thread(target=interrupt, args=(folders.output / "v",))
    watcher.start()
    outcome = Executor(folders, 0).run(job, Reporter(job, lambda *message: None))
    watcher.join()
    assert not outcome.succeeded
    assert outcome.messages[-1][0] == "execution_interrupted"
    assert outcome.messages[-1][1]["executed"] == ["4", "1", "2"]
    assert seen[0].startswith("."), "unfinished files are hidden"
    assert not list((folders.output / "v").iterdir())


@pytest.mark.parametrize("prefix", ["../escaped", "/escaped", "a/../../escaped"])
def test_a_prefix_that_leads_out_fails_the_job(folders: Folders, prefix: str) -> None:
    graph = flat(0)
    graph["3"]["inputs"]["filename_prefix"] = prefix
    assert "outside the output folder" in failure(run(folders, graph))["exception_message"]
    assert not list(folders.models.parent.rglob("escaped*"))
