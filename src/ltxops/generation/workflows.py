"""The workflows that ship with the product: filled with parameters, and what video each one must give.

A workflow is a file in ComfyUI's API format, used as it stands; `parameters.yaml` beside it says into which
inputs a parameter goes. Nothing here talks to ComfyUI.
"""

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

import ltxops
from ltxops.errors import BadInput
from ltxops.generation.execution import Graph

#: A parameter's value: text, a whole number, or a number.
Value = str | int | float

#: Inputs that name a file, and the folder under ComfyUI's models/ that it is looked for in.
MODEL_INPUTS = {
    ("CheckpointLoaderSimple", "ckpt_name"): "checkpoints",
    ("LTXAVTextEncoderLoader", "ckpt_name"): "checkpoints",
    ("LTXAVTextEncoderLoader", "text_encoder"): "text_encoders",
    ("LTXVAudioVAELoader", "ckpt_name"): "checkpoints",
    ("LTXVGemmaCLIPModelLoader", "gemma_path"): "text_encoders",
    ("LTXVGemmaCLIPModelLoader", "ltxv_path"): "checkpoints",
    ("LatentUpscaleModelLoader", "model_name"): "latent_upscale_models",
    ("LoraLoaderModelOnly", "lora_name"): "loras",
}

#: What stands in a workflow where each run gets a random integer of its own; the API wrapper puts it in.
RANDOM_INT = "__RANDOM_INT__"

#: Pixels of one latent row or column, and frames of one latent frame after the first (LTX-2's VAE).
_LATENT_PIXELS = 32
_LATENT_FRAMES = 8

#: Limits of the nodes that do not depend on the workflow: CreateVideo, RandomNoise, LTXVScheduler, CFGGuider.
_LIMITS: dict[str, tuple[float, float]] = {
    "frame_rate": (1, 120),
    "seed": (0, 2**64 - 1),
    "steps": (1, 10000),
    "cfg": (0, 100),
}
_TEXTS = ("prompt", "negative_prompt", "filename_prefix")


@dataclass(frozen=True)
class ExpectedVideo:
    """What a workflow must give: pixels, frames, frames a second.

    `lively`: the picture must move and the sound must be heard; otherwise neither is asked for. An audio
    track is expected either way.
    """

    width: int
    height: int
    frames: int
    frame_rate: float
    lively: bool


@dataclass(frozen=True)
class ModelFile:
    """A file that a workflow needs: the folder under models/, its name there, and the input that names it."""

    folder: str
    name: str
    class_type: str
    input_name: str


def workflow_folder() -> Path:
    """Return where the workflows lie: inside the installed package, or at the root of a checkout."""
    package = Path(ltxops.__file__).parent
    installed = package / "data" / "workflows"
    return installed if installed.is_dir() else package.parents[1] / "workflows"


def names() -> list[str]:
    """Return the names of the shipped workflows."""
    return list(_catalogue())


def summary(name: str) -> str:
    """Return one line on what a workflow does."""
    return str(_entry(name)["summary"])


def parameters(name: str) -> dict[str, Value]:
    """Return the parameters that a workflow takes, with the values that it has as it ships."""
    graph = _template(name)
    return {key: _read(graph, targets[0]) for key, targets in _entry(name)["parameters"].items()}


def fill(name: str, values: Mapping[str, Value | None] | None = None) -> Graph:
    """Return a workflow with `values` put in; None leaves a parameter as it ships.

    Raises BadInput for an unknown workflow or parameter, and for a value that ComfyUI could not render.
    """
    entry, graph = _entry(name), copy.deepcopy(_template(name))
    final = _settled(name, values)
    for parameter, targets in entry["parameters"].items():
        for target in targets:
            _write(graph, target, final[parameter])
    for target in entry.get("derived", {}).get("seconds", []):
        _write(graph, target, float(final["length"]) / float(final["frame_rate"]))
    return graph


def fill_unseeded(name: str, values: Mapping[str, Value | None] | None = None) -> Graph:
    """Return what `fill` returns, with `__RANDOM_INT__` for the seed.

    Raises BadInput also for a workflow without a seed: ComfyUI would answer its second run from the cache.
    """
    graph = fill(name, values)
    targets = _entry(name)["parameters"].get("seed")
    if not targets:
        seeded = ", ".join(other for other in names() if "seed" in _entry(other)["parameters"])
        raise BadInput(f"the workflow {name} has no seed, so no two runs differ; choose one of {seeded}")
    for target in targets:
        node, key = target.split(".")
        graph[node]["inputs"][key] = RANDOM_INT
    return graph


def expected_video(name: str, values: Mapping[str, Value | None] | None = None) -> ExpectedVideo:
    """Return the video that `fill` with the same values gives, sizes floored as LTX-2 floors them."""
    entry, final = _entry(name), _settled(name, values)
    width, height, length = int(final["width"]), int(final["height"]), int(final["length"])
    if entry["geometry"] != "plain":
        scale = 2 if entry["geometry"] == "ltx-x2" else 1
        width, height = (_floored(round(side / scale)) * scale for side in (width, height))
        length = (length - 1) // _LATENT_FRAMES * _LATENT_FRAMES + 1
    return ExpectedVideo(width, height, length, float(final["frame_rate"]), bool(entry["lively"]))


def class_types(graph: Graph) -> set[str]:
    """Return the node classes that a workflow uses."""
    return {str(node["class_type"]) for node in graph.values()}


def required_classes() -> list[str]:
    """Return the node classes that ComfyUI must have for all the shipped workflows."""
    return sorted(set().union(*(class_types(_template(name)) for name in names())))


def required_models(name: str) -> list[ModelFile]:
    """Return the model files that a workflow names, each folder and name once."""
    found: dict[tuple[str, str], ModelFile] = {}
    for node in _template(name).values():
        for key, value in node["inputs"].items():
            folder = MODEL_INPUTS.get((node["class_type"], key))
            if folder is not None:
                found.setdefault((folder, value), ModelFile(folder, value, node["class_type"], key))
    return sorted(found.values(), key=lambda model: (model.folder, model.name))


@lru_cache(maxsize=1)
def _catalogue() -> dict[str, dict[str, Any]]:
    document = yaml.safe_load((workflow_folder() / "parameters.yaml").read_text(encoding="utf-8"))
    catalogue: dict[str, dict[str, Any]] = document["workflows"]
    return catalogue


@lru_cache(maxsize=16)
def _template(name: str) -> Graph:
    graph: Graph = json.loads((workflow_folder() / _entry(name)["file"]).read_text(encoding="utf-8"))
    return graph


def _entry(name: str) -> dict[str, Any]:
    if name not in _catalogue():
        raise BadInput(f"there is no workflow {name!r}; choose one of {', '.join(names())}")
    return _catalogue()[name]


def _read(graph: Graph, target: str) -> Value:
    node, key = target.split(".")
    value: Value = graph[node]["inputs"][key]
    return value


def _write(graph: Graph, target: str, value: Value) -> None:
    """Put a value in as the type that the input has in the file, so that whole numbers stay whole."""
    node, key = target.split(".")
    graph[node]["inputs"][key] = type(_read(graph, target))(value)


def _floored(side: int) -> int:
    return side // _LATENT_PIXELS * _LATENT_PIXELS


def _settled(name: str, values: Mapping[str, Value | None] | None) -> dict[str, Value]:
    """Return every parameter of a workflow: checked where given, as shipped where not."""
    entry, settled = _entry(name), parameters(name)
    for parameter, value in (values or {}).items():
        if parameter not in settled:
            raise BadInput(f"the workflow {name} takes no {parameter!r}; it takes {', '.join(settled)}")
        if value is not None:
            whole = any(isinstance(_read(_template(name), t), int) for t in entry["parameters"][parameter])
            settled[parameter] = _checked(name, parameter, value, entry["limits"], whole)
    if entry["geometry"] == "plain":
        for side in ("width", "height"):
            if int(settled[side]) % 2:
                raise BadInput(f"{side} {settled[side]} is odd; H.264 takes even sizes only")
    return settled


def _checked(name: str, parameter: str, value: Value, limits: Mapping[str, Any], whole: bool) -> Value:
    if parameter in _TEXTS:
        return _checked_text(parameter, value)
    if isinstance(value, (bool, str)) or not math.isfinite(value) or (whole and value != int(value)):
        kind = "whole number" if whole else "number"
        raise BadInput(f"{parameter} {value!r} is no {kind}; the workflow {name} needs one")
    low, high = _LIMITS.get(parameter) or (limits[parameter]["minimum"], limits[parameter]["maximum"])
    if not low <= value <= high:
        raise BadInput(f"{parameter} {value} is out of range; the workflow {name} takes {low} to {high}")
    return int(value) if whole else value


def _checked_text(parameter: str, value: Value) -> str:
    if not isinstance(value, str):
        raise BadInput(f"{parameter} {value!r} is not text")
    if parameter == "filename_prefix":
        parts = value.replace("\\", "/").split("/")
        if not parts[-1] or value.startswith("/") or ".." in parts or "\0" in value:
            raise BadInput(f"filename_prefix {value!r} must be a name below ComfyUI's output folder")
    return value
