"""Nodes that make, change and join pictures, sound and video."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltxops.embedded.comfyui.audio import Audio
from ltxops.embedded.comfyui.frames import Each, Flat, Frame, Frames, Pair, Part, edges, inverted, scaled
from ltxops.embedded.comfyui.nodes.context import Context, Inputs, Node, Result, Unsupported
from ltxops.embedded.comfyui.values import Video

Level = NDArray[np.floating[Any]]


def _empty_image(context: Context, inputs: Inputs) -> Result:
    return Result((Flat(inputs["width"], inputs["height"], inputs["batch_size"], inputs["color"]),))


def _empty_audio(context: Context, inputs: Inputs) -> Result:
    rate = inputs["sample_rate"]
    return Result((Audio(rate, inputs["channels"], round(inputs["duration"] * rate)),))


def _create_video(context: Context, inputs: Inputs) -> Result:
    depth = inputs.get("bit_depth", 8)
    return Result((Video(inputs["images"], inputs["fps"], inputs.get("audio"), depth),))


def _components(context: Context, inputs: Inputs) -> Result:
    video: Video = inputs["video"]
    return Result((video.images, video.audio, video.fps, video.bit_depth))


def _size(context: Context, inputs: Inputs) -> Result:
    images: Frames = inputs["image"]
    return Result((images.width, images.height, images.count))


def _scale(context: Context, inputs: Inputs) -> Result:
    """Scale to a width and height, of which one can be 0 to keep the proportions."""
    images: Frames = inputs["image"]
    width, height = inputs["width"], inputs["height"]
    if not width and not height:
        return Result((images,))
    width = width or max(1, round(images.width * height / images.height))
    height = height or max(1, round(images.height * width / images.width))
    return Result((scaled(images, width, height, inputs["upscale_method"], inputs["crop"]),))


def _scale_by(context: Context, inputs: Inputs) -> Result:
    images: Frames = inputs["image"]
    width, height = (max(1, round(side * inputs["scale_by"])) for side in (images.width, images.height))
    return Result((scaled(images, width, height, inputs["upscale_method"]),))


def target_size(kind: str, given: dict[str, Any], width: int, height: int) -> tuple[int, int]:
    """Return the size that ResizeImageMaskNode makes of a width and height for one of its ways to resize.

    `given` has the option's own inputs. Raises Unsupported for a way that is not in the contract.
    """
    factor_x = factor_y = 1.0
    if kind == "scale dimensions":
        wanted_w, wanted_h = given["width"], given["height"]
        factor_x = (wanted_w or wanted_h * width / height) / width
        factor_y = (wanted_h or wanted_w * height / width) / height
    elif kind == "scale by multiplier":
        factor_x = factor_y = given["multiplier"]
    elif kind == "scale longer dimension":
        factor_x = factor_y = given["longer_size"] / max(width, height)
    elif kind == "scale shorter dimension":
        factor_x = factor_y = given["shorter_size"] / min(width, height)
    elif kind == "scale width":
        factor_x = factor_y = given["width"] / width
    elif kind == "scale height":
        factor_x = factor_y = given["height"] / height
    elif kind == "scale total pixels":
        factor_x = factor_y = math.sqrt(given["megapixels"] * 1024 * 1024 / (width * height))
    elif kind == "match size":
        return given["match"].width, given["match"].height
    elif kind == "scale to multiple":
        step = given["multiple"]
        return max(step, width // step * step), max(step, height // step * step)
    else:
        raise Unsupported(f"resize_type {kind!r} is not one of ResizeImageMaskNode's")
    if factor_x <= 0 or factor_y <= 0:
        return width, height
    return max(1, round(width * factor_x)), max(1, round(height * factor_y))


def _resize(context: Context, inputs: Inputs) -> Result:
    images: Frames = inputs["input"]
    prefix = "resize_type."
    given = {name[len(prefix) :]: value for name, value in inputs.items() if name.startswith(prefix)}
    width, height = target_size(inputs["resize_type"], given, images.width, images.height)
    crop = "center" if inputs["resize_type"] == "scale to multiple" else given.get("crop", "disabled")
    return Result((scaled(images, width, height, inputs["scale_method"], crop),))


def _from_batch(context: Context, inputs: Inputs) -> Result:
    images: Frames = inputs["image"]
    start = inputs["batch_index"]
    start = max(0, min(images.count - 1, start + images.count if start < 0 else start))
    return Result((Part(images, start, min(inputs["length"], images.count - start)),))


def _invert(context: Context, inputs: Inputs) -> Result:
    return Result((inverted(inputs["image"]),))


def _canny(context: Context, inputs: Inputs) -> Result:
    return Result((edges(inputs["image"]),))


#: ImageBlend's modes, for values from 0 to 1.
BLENDS: dict[str, Callable[[Level, Level], Level]] = {
    "normal": lambda a, b: b,
    "multiply": lambda a, b: a * b,
    "screen": lambda a, b: 1 - (1 - a) * (1 - b),
    "overlay": lambda a, b: np.where(a <= 0.5, 2 * a * b, 1 - 2 * (1 - a) * (1 - b)),
    "soft_light": lambda a, b: (1 - 2 * b) * a * a + 2 * b * a,
    "difference": lambda a, b: a - b,
}


def blend(first: Frame, second: Frame, factor: float, mode: str) -> Frame:
    """Return `first` with `factor` of the two blended by `mode`, ImageBlend's."""
    a, b = first.astype(np.float32) / 255, second.astype(np.float32) / 255
    blended = BLENDS[mode](a, b)
    return ((a * (1 - factor) + blended * factor).clip(0, 1) * 255).astype(np.uint8)


def _blend(context: Context, inputs: Inputs) -> Result:
    factor, mode = inputs["blend_factor"], inputs["blend_mode"]
    return Result((Pair(inputs["image1"], inputs["image2"], lambda a, b: blend(a, b, factor, mode)),))


def _preprocess(context: Context, inputs: Inputs) -> Result:
    """Cut to even sides, as the H.264 round trip of LTXVPreprocess does; its compression is not imitated."""
    images: Frames = inputs["image"]
    width, height = images.width // 2 * 2, images.height // 2 * 2
    return Result((Each(images, width, height, lambda frame: frame[:height, :width]),))


NODES: dict[str, Node] = {
    "EmptyImage": _empty_image,
    "EmptyAudio": _empty_audio,
    "CreateVideo": _create_video,
    "GetVideoComponents": _components,
    "GetImageSize": _size,
    "ImageScale": _scale,
    "ImageScaleBy": _scale_by,
    "ResizeImageMaskNode": _resize,
    "ImageFromBatch": _from_batch,
    "ImageInvert": _invert,
    "ImageBlend": _blend,
    "Canny": _canny,
    "LTXVPreprocess": _preprocess,
}
