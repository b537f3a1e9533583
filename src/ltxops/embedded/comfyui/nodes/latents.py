"""Nodes that work out the size of LTX-2's latent grids, and decode them into test patterns.

Sizes follow ComfyUI's nodes for LTX-Video: they floor, so what comes out can be smaller than what was asked
for.
"""

import re
from dataclasses import replace

from ltxops.embedded.comfyui.audio import LATENTS_PER_SECOND, tone
from ltxops.embedded.comfyui.frames import Flat, Frames, scaled
from ltxops.embedded.comfyui.nodes.context import Context, Inputs, Node, Result, Unsupported
from ltxops.embedded.comfyui.pattern import TestPattern, digest
from ltxops.embedded.comfyui.values import LTX_CELL, Conditioning, Latent, Vae, Weights, latent_frames

#: What a latent of zeros decodes to.
GREY = 0x808080
SCALE_IN_NAME = re.compile(r"(?P<what>spatial|temporal)-upscaler-x(?P<factor>\d+(\.\d+)?)")


def empty_video(inputs: Inputs) -> Latent:
    """Return the grid for width, height, length and batch_size."""
    return Latent(
        columns=inputs["width"] // LTX_CELL,
        rows=inputs["height"] // LTX_CELL,
        frames=latent_frames(inputs["length"]),
        batch=inputs["batch_size"],
    )


def _empty_video(context: Context, inputs: Inputs) -> Result:
    return Result((empty_video(inputs),))


def _empty_audio(context: Context, inputs: Inputs) -> Result:
    seconds = inputs["frames_number"] / inputs["frame_rate"]
    frames = max(1, round(seconds * LATENTS_PER_SECOND))
    return Result((Latent(batch=inputs["batch_size"], audio_frames=frames),))


def _concat(context: Context, inputs: Inputs) -> Result:
    video, audio = inputs["video_latent"], inputs["audio_latent"]
    if not video.has_video or not audio.audio_frames:
        raise ValueError("LTXVConcatAVLatent needs a video latent and an audio latent")
    return Result((replace(video, audio_frames=audio.audio_frames),))


def _separate(context: Context, inputs: Inputs) -> Result:
    both: Latent = inputs["av_latent"]
    if not both.has_video or not both.audio_frames:
        raise ValueError("LTXVSeparateAVLatent needs a latent that has video and audio")
    audio = replace(both, columns=0, rows=0, frames=0, picture=None)
    return Result((replace(both, audio_frames=0), audio))


def _upsample(context: Context, inputs: Inputs) -> Result:
    """Enlarge by what the upscaler's file name says: x2 in space unless it is a temporal one."""
    latent: Latent = inputs["samples"]
    model: Weights = inputs["upscale_model"]
    match = SCALE_IN_NAME.search(model.name)
    factor = float(match["factor"]) if match else 2.0
    if match and match["what"] == "temporal":
        return Result((replace(latent, frames=int(latent.frames * factor) - 1),))
    return Result((replace(latent, columns=int(latent.columns * factor), rows=int(latent.rows * factor)),))


def _image_to_video(context: Context, inputs: Inputs) -> Result:
    latent = replace(empty_video(inputs), picture=inputs["image"])
    return Result((inputs["positive"], inputs["negative"], latent))


def _image_in_place(context: Context, inputs: Inputs) -> Result:
    latent: Latent = inputs["latent"]
    return Result((latent if inputs["bypass"] else replace(latent, picture=inputs["image"]),))


def _guide(name: str) -> Node:
    """Return a node that appends input `name` as guide frames, which LTXVCropGuides takes off again."""

    def add(context: Context, inputs: Inputs) -> Result:
        latent: Latent = inputs["latent"]
        guide = inputs[name]
        added = guide.frames if isinstance(guide, Latent) else latent_frames(guide.count)
        picture = guide.picture if isinstance(guide, Latent) else guide
        positive, negative = (
            replace(inputs[side], guide_frames=inputs[side].guide_frames + added)
            for side in ("positive", "negative")
        )
        longer = replace(latent, frames=latent.frames + added, picture=latent.picture or picture)
        return Result((positive, negative, longer))

    return add


def _crop_guides(context: Context, inputs: Inputs) -> Result:
    positive: Conditioning = inputs["positive"]
    latent: Latent = inputs["latent"]
    cropped = replace(latent, frames=max(1, latent.frames - positive.guide_frames))
    plain = (replace(inputs[side], guide_frames=0) for side in ("positive", "negative"))
    return Result((*plain, cropped))


def _encode(context: Context, inputs: Inputs) -> Result:
    images: Frames = inputs["pixels"]
    vae: Vae = inputs["vae"]
    columns, rows = images.width // vae.cell, images.height // vae.cell
    if not columns or not rows:
        raise ValueError(
            f"VAEEncode needs at least {vae.cell}x{vae.cell} pixels, not {images.width}x{images.height}"
        )
    still = vae.stride == 1
    frames = 1 if still else latent_frames(images.count)
    batch = images.count if still else 1
    return Result((Latent(columns, rows, frames, batch, vae.cell, vae.stride, picture=images),))


def _decode(context: Context, inputs: Inputs) -> Result:
    return Result((decoded(inputs["samples"]),))


def decoded(latent: Latent) -> Frames:
    """Return the frames of a latent: a test pattern where something was sampled, else what was put in."""
    if not latent.has_video:
        raise Unsupported("VAEDecode was given an audio latent; LTXVAudioVAEDecode decodes those")
    width, height = latent.columns * latent.cell, latent.rows * latent.cell
    if latent.seed is not None:
        seed, text, picture = latent.seed, latent.text, latent.picture
        return TestPattern(width, height, latent.pixel_frames, latent.batch, seed, text, picture)
    count = latent.pixel_frames * latent.batch
    if latent.picture is not None and latent.picture.count == count:
        return scaled(latent.picture, width, height, crop="center")
    return Flat(width, height, count, GREY)


def _decode_audio(context: Context, inputs: Inputs) -> Result:
    latent: Latent = inputs["samples"]
    if not latent.audio_frames:
        raise ValueError("LTXVAudioVAEDecode needs an audio latent")
    silent = latent.seed is None
    hertz = 0.0 if silent else 220.0 + 2 * digest(latent.seed or 0, latent.text, 0)[15]
    return Result((tone(latent.audio_frames, hertz),))


NODES: dict[str, Node] = {
    "EmptyLTXVLatentVideo": _empty_video,
    "LTXVEmptyLatentAudio": _empty_audio,
    "LTXVConcatAVLatent": _concat,
    "LTXVSeparateAVLatent": _separate,
    "LTXVLatentUpsampler": _upsample,
    "LTXVImgToVideo": _image_to_video,
    "LTXVImgToVideoInplace": _image_in_place,
    "LTXVAddGuide": _guide("image"),
    "LTXAddVideoICLoRAGuide": _guide("image"),
    "LTXVAddLatentGuide": _guide("guiding_latent"),
    "LTXVCropGuides": _crop_guides,
    "VAEEncode": _encode,
    "VAEDecode": _decode,
    "VAEDecodeTiled": _decode,
    "LTXVAudioVAEDecode": _decode_audio,
}
