"""The shipped workflows: parameters land where they belong, and impossible ones are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

import ltxops
from ltxops.errors import BadInput
from ltxops.generation import workflows
from ltxops.generation.workflows import ExpectedVideo

CONTRACT = Path(ltxops.__file__).parent / "embedded" / "contract"


def recorded(name: str) -> dict[str, Any]:
    recordings: dict[str, Any] = json.loads((CONTRACT / "http_and_ws.json").read_text(encoding="utf-8"))
    graph: dict[str, Any] = recordings[name]["request"]["json"]["prompt"]
    return graph


def shape(graph: dict[str, Any]) -> list[Any]:
    """Describe a graph by what each output node hangs on, without node ids, titles and free values."""

    def node(link: list[Any]) -> Any:
        item = graph[link[0]]
        inputs = {
            key: node(value) if isinstance(value, list) else type(value).__name__
            for key, value in sorted(item["inputs"].items())
        }
        return [item["class_type"], link[1], inputs]

    return [node([key, 0]) for key, item in graph.items() if item["class_type"] == "SaveVideo"]


def loosened(value: Any) -> Any:
    """Take numbers as one type: ComfyUI converts them, and people write 24 where 24.0 is meant."""
    if isinstance(value, dict):
        return {key: loosened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [loosened(item) for item in value]
    return "number" if value in ("int", "float") else value


def test_the_check_has_the_shape_that_a_real_comfyui_ran() -> None:
    assert loosened(shape(workflows.fill("check"))) == loosened(shape(recorded("check_prompt")))


def test_the_distilled_workflow_has_the_shape_that_a_real_comfyui_accepted() -> None:
    assert loosened(shape(workflows.fill("distilled"))) == loosened(shape(recorded("prompt_ok_distilled")))


def test_the_two_stage_workflow_has_the_shape_that_a_real_comfyui_accepted() -> None:
    assert loosened(shape(workflows.fill("two-stage"))) == loosened(shape(recorded("prompt_ok")))


@pytest.mark.parametrize("name", workflows.names())
def test_every_input_exists_and_every_required_one_is_there(name: str) -> None:
    info = json.loads((CONTRACT / "object_info.json").read_text(encoding="utf-8"))
    for node in workflows.fill(name).values():
        known = info[node["class_type"]]["input"]
        assert set(known["required"]) <= set(node["inputs"])
        assert set(node["inputs"]) <= {*known["required"], *known.get("optional", {})}
        assert node["_meta"]["title"]


@pytest.mark.parametrize("name", workflows.names())
def test_a_parameter_reaches_every_target_and_nothing_else_changes(name: str) -> None:
    before = workflows.fill(name)
    values: dict[str, workflows.Value] = {
        "prompt": "a kite",
        "negative_prompt": "rain",
        "width": 640,
        "height": 384,
        "length": 33,
        "frame_rate": 30,
        "seed": 2**64 - 1,
        "steps": 3,
        "cfg": 2.5,
        "filename_prefix": "video/other",
    }
    own = {key: value for key, value in values.items() if key in workflows.parameters(name)}
    after = workflows.fill(name, own)
    changed = {
        f"{node}.{key}": value
        for node, item in after.items()
        for key, value in item["inputs"].items()
        if value != before[node]["inputs"][key]
    }
    expected = {
        "check": {
            "10.width": 640,
            "10.height": 384,
            "10.batch_size": 33,
            "11.duration": 33 / 30,
            "12.fps": 30.0,
            "13.filename_prefix": "video/other",
        },
        "two-stage": {
            "30.text": "a kite",
            "31.text": "rain",
            "40.width": 640,
            "40.height": 384,
            "20.value": 33,
            "21.value": 30.0,
            "22.value": 30,
            "50.noise_seed": 2**64 - 1,
            "52.steps": 3,
            "53.cfg": 2.5,
            "73.filename_prefix": "video/other",
        },
        "distilled": {
            "20.text": "a kite",
            "21.text": "rain",
            "30.width": 640,
            "30.height": 384,
            "30.length": 33,
            "31.frames_number": 33,
            "22.frame_rate": 30.0,
            "31.frame_rate": 30,
            "52.fps": 30.0,
            "40.seed": 2**64 - 1,
            "40.steps": 3,
            "40.cfg": 2.5,
            "53.filename_prefix": "video/other",
        },
    }
    assert changed == expected[name]
    whole = {"22.value", "31.frame_rate"}
    assert all(isinstance(changed[key], int) for key in whole & set(changed))
    assert workflows.fill(name) == before


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("sora", {}, "there is no workflow 'sora'; choose one of check, two-stage, distilled"),
        ("check", {"steps": 3}, "takes no 'steps'"),
        ("distilled", {"width": 0}, "width 0 is out of range"),
        ("distilled", {"width": 640.5}, "width 640.5 is no whole number"),
        ("distilled", {"height": "tall"}, "height 'tall' is no whole number"),
        ("distilled", {"length": 8}, "length 8 is out of range; the workflow distilled takes 9 to 1000"),
        ("two-stage", {"frame_rate": 23.976}, "frame_rate 23.976 is no whole number"),
        ("check", {"frame_rate": float("nan")}, "is no number"),
        ("check", {"width": 321}, "width 321 is odd"),
        ("two-stage", {"seed": -1}, "seed -1 is out of range"),
        ("two-stage", {"seed": True}, "seed True is no whole number"),
        ("two-stage", {"prompt": 5}, "prompt 5 is not text"),
        ("two-stage", {"filename_prefix": "../up"}, "must be a name below ComfyUI's output folder"),
    ],
)
def test_what_cannot_be_rendered_is_refused_with_the_value(
    name: str, values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BadInput) as caught:
        workflows.fill(name, values)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("check", {"width": 514, "length": 7}, ExpectedVideo(514, 320, 7, 24.0, False)),
        ("check", {"frame_rate": 29.97}, ExpectedVideo(512, 320, 25, 29.97, False)),
        ("distilled", {"width": 1001, "height": 720}, ExpectedVideo(992, 704, 121, 24.0, True)),
        ("distilled", {"length": 32}, ExpectedVideo(1280, 704, 25, 24.0, True)),
        ("two-stage", {"width": 1280, "height": 720}, ExpectedVideo(1280, 704, 121, 24.0, True)),
        ("two-stage", {"width": 768, "height": 510}, ExpectedVideo(768, 448, 121, 24.0, True)),
        ("two-stage", {"length": 24, "frame_rate": 25}, ExpectedVideo(1280, 704, 17, 25.0, True)),
    ],
)
def test_the_expected_size_is_what_ltx2_renders(
    name: str, values: dict[str, workflows.Value | None], expected: ExpectedVideo
) -> None:
    assert workflows.expected_video(name, values) == expected


def test_the_models_of_a_workflow_are_the_files_it_names() -> None:
    files = [f"{model.folder}/{model.name}" for model in workflows.required_models("two-stage")]
    assert files == [
        "checkpoints/ltx-2-19b-dev-fp8.safetensors",
        "latent_upscale_models/ltx-2-spatial-upscaler-x2-1.0.safetensors",
        "loras/ltx-2-19b-distilled-lora-384.safetensors",
        "text_encoders/gemma_3_12B_it.safetensors",
    ]
    assert workflows.required_models("check") == []


def test_no_input_that_names_a_file_is_left_out_of_the_models() -> None:
    named = {
        value
        for name in workflows.names()
        for node in workflows.fill(name).values()
        for value in node["inputs"].values()
        if isinstance(value, str) and value.endswith(".safetensors")
    }
    assert named == {model.name for name in workflows.names() for model in workflows.required_models(name)}
