"""Which node classes there are, and which files a loader may name.

The classes come from the recorded `object_info.json`. Its lists of files are replaced by what lies on disk
now, so that a missing or misplaced weight is refused here just as it is on a GPU host.
"""

import json
import mimetypes
import os
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ltxops.embedded.comfyui.options import Folders

#: A node class as `/object_info` describes it.
NodeInfo = dict[str, Any]
#: All of them, by class name.
Catalog = dict[str, NodeInfo]

#: The API's names of the folders under models/, and where each one looks (ComfyUI's folder_paths).
MODEL_FOLDERS: dict[str, tuple[str, ...]] = {
    "checkpoints": ("checkpoints",),
    "loras": ("loras",),
    "vae": ("vae",),
    "text_encoders": ("text_encoders", "clip"),
    "diffusion_models": ("unet", "diffusion_models"),
    "latent_upscale_models": ("latent_upscale_models",),
    "upscale_models": ("upscale_models",),
    "clip_vision": ("clip_vision",),
    "controlnet": ("controlnet",),
    "embeddings": ("embeddings",),
}
#: Which inputs of which name choose a file of which folder; in the contract a name has one meaning.
INPUT_FOLDERS = {
    "ckpt_name": "checkpoints",
    "ltxv_path": "checkpoints",
    "lora_name": "loras",
    "text_encoder": "text_encoders",
    "gemma_path": "text_encoders",
    "unet_name": "diffusion_models",
    "vae_name": "vae",
    "model_name": "latent_upscale_models",
}
#: Choices beside the files: ComfyUI's VAE that leaves pixels as they are.
EXTRA_CHOICES = {"vae_name": ["pixel_space"]}
WEIGHT_SUFFIXES = {".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"}
#: Loaders that choose an uploaded file: class → (input, kind of media).
#: A file name with the folder it is in, the way the web page writes it.
ANNOTATED = re.compile(r"(?P<name>.+) \[(?P<kind>input|output|temp)\]")
UPLOADS = {"LoadImage": ("image", "image"), "LoadVideo": ("file", "video")}


@cache
def recorded() -> Catalog:
    """Return the recorded node classes. Shared: callers must not change it."""
    text = (files("ltxops.embedded") / "contract" / "object_info.json").read_text(encoding="utf-8")
    catalog: Catalog = json.loads(text)
    return catalog


def catalog(folders: Folders) -> Catalog:
    """Return the node classes with the choices of every loader as they are on disk now."""
    found = deepcopy(recorded())
    names = {folder: weight_names(folders.models, folder) for folder in set(INPUT_FOLDERS.values())}
    for class_type, node in found.items():
        for inputs in (node["input"].get("required", {}), node["input"].get("optional", {})):
            for name, spec in inputs.items():
                if name in INPUT_FOLDERS:
                    _set_choices(spec, names[INPUT_FOLDERS[name]] + EXTRA_CHOICES.get(name, []))
        if class_type in UPLOADS:
            name, media = UPLOADS[class_type]
            _set_choices(node["input"]["required"][name], upload_names(folders.input, media))
    return found


def weight_names(models: Path, folder: str) -> list[str]:
    """Return the weights of one folder, sorted, those in nested folders as `nested/file`."""
    names: set[str] = set()
    for part in MODEL_FOLDERS[folder]:
        root = models / part
        names.update(path.relative_to(root).as_posix() for path in _walk(root))
    return sorted(names)


def weight_path(models: Path, folder: str, name: str) -> Path:
    """Return the path of a weight that a loader names. Raises FileNotFoundError."""
    for part in MODEL_FOLDERS[folder]:
        path = models / part / name
        if path.is_file():
            return path
    raise FileNotFoundError(f"Model in folder '{folder}' with filename '{name}' not found.")


def upload_names(input_folder: Path, media: str) -> list[str]:
    """Return the files right in input/ whose type is `media` (image, video), sorted."""
    if not input_folder.is_dir():
        return []
    return sorted(
        path.name
        for path in input_folder.iterdir()
        if path.is_file() and (mimetypes.guess_type(path.name)[0] or "").startswith(media + "/")
    )


def upload_path(folders: Folders, name: object) -> Path | None:
    """Return the uploaded file a loader names, or None. A name may end in its folder: `a.png [output]`."""
    if not isinstance(name, str) or "\0" in name:
        return None
    match = ANNOTATED.fullmatch(name)
    folder = folders.of_type(match["kind"]) if match else folders.input
    path = Path(os.path.normpath((folder or folders.input) / (match["name"] if match else name)))
    inside = path.is_relative_to(folder or folders.input)
    return path if inside and path.is_file() else None


def upload_checks(folders: Folders) -> dict[tuple[str, str], Callable[[Any], str | None]]:
    """Return the checks that LoadImage and LoadVideo make of their file instead of the general ones."""

    def check(media: str) -> Callable[[Any], str | None]:
        return lambda name: None if upload_path(folders, name) else f"Invalid {media} file: {name}"

    return {(class_type, name): check(media) for class_type, (name, media) in UPLOADS.items()}


def _walk(root: Path) -> Iterator[Path]:
    """Yield the weights under `root`. Links to folders are followed once, so that a loop of links ends."""
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        for name in names:
            path = Path(folder, name)
            if path.suffix.lower() in WEIGHT_SUFFIXES and path.is_file():
                yield path


def _set_choices(spec: list[Any], choices: list[str]) -> None:
    """Put `choices` into an input in either of the two forms: a plain list, or COMBO with options."""
    if isinstance(spec[0], list):
        spec[0] = choices
    else:
        spec[1]["options"] = choices
