"""Nodes that open files: weights are checked as far as a loader would notice, uploads are really read."""

from collections.abc import Callable
from pathlib import Path

import av

from ltxops.embedded.comfyui.audio import Audio
from ltxops.embedded.comfyui.catalog import INPUT_FOLDERS, upload_path, weight_path
from ltxops.embedded.comfyui.frames import FromFile, load_image
from ltxops.embedded.comfyui.nodes.context import Context, Inputs, Node, Result
from ltxops.embedded.comfyui.values import Vae, Video, Weights
from ltxops.embedded.comfyui.weights import check_safetensors, check_text_encoder_folder

#: Stable Diffusion's VAE: 8 pixels a cell, one picture at a time.
IMAGE_VAE_CELL = 8


def _open(context: Context, inputs: Inputs, name: str) -> str:
    """Check the weight that input `name` chooses and return its name."""
    path = weight_path(context.folders.models, INPUT_FOLDERS[name], inputs[name])
    if name == "gemma_path":
        check_text_encoder_folder(path)
    else:
        check_safetensors(path)
    return str(inputs[name])


def _weights(*names: str) -> Node:
    """Return a loader of one output that opens each input in `names`; the first one names the result."""

    def load(context: Context, inputs: Inputs) -> Result:
        opened = [_open(context, inputs, name) for name in names]
        return Result((Weights(opened[0]),))

    return load


def _checkpoint(context: Context, inputs: Inputs) -> Result:
    name = _open(context, inputs, "ckpt_name")
    return Result((Weights(name), Weights(name), Vae(name)))


def _audio_vae(context: Context, inputs: Inputs) -> Result:
    return Result((Vae(_open(context, inputs, "ckpt_name")),))


def _vae(context: Context, inputs: Inputs) -> Result:
    if inputs["vae_name"] == "pixel_space":
        return Result((Vae("pixel_space", 1, 1),))
    return Result((Vae(_open(context, inputs, "vae_name"), IMAGE_VAE_CELL, 1),))


def _lora(*outputs: str) -> Node:
    """Return a LoRA loader that passes on the inputs in `outputs`."""

    def load(context: Context, inputs: Inputs) -> Result:
        _open(context, inputs, "lora_name")
        return Result(tuple(inputs[name] for name in outputs))

    return load


def _ic_lora(context: Context, inputs: Inputs) -> Result:
    _open(context, inputs, "lora_name")
    return Result((inputs["model"], 1.0))


def _upload(read: Callable[[Path], Result], name: str) -> Node:
    """Return a loader of an uploaded file."""

    def load(context: Context, inputs: Inputs) -> Result:
        path = upload_path(context.folders, inputs[name])
        if path is None:
            raise FileNotFoundError(f"{inputs[name]} is no longer in the input folder")
        return read(path)

    return load


def _image(path: Path) -> Result:
    return Result(load_image(path))


def _video(path: Path) -> Result:
    """Read a video's size, rate and length; the frames themselves are decoded when they are needed."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate or 24)
        count = stream.frames or sum(1 for _ in container.decode(video=0))
        images = FromFile(path, stream.width, stream.height, count)
        sound = container.streams.audio[0] if container.streams.audio else None
        audio = None
        if sound is not None:
            rate, channels = sound.rate, min(2, sound.channels)
            audio = Audio(rate, channels, round(count / fps * rate), path=path)
    return Result((Video(images, fps, audio),))


NODES: dict[str, Node] = {
    "CheckpointLoaderSimple": _checkpoint,
    "LowVRAMCheckpointLoader": _checkpoint,
    "LTXVAudioVAELoader": _audio_vae,
    "LowVRAMAudioVAELoader": _audio_vae,
    "VAELoader": _vae,
    "UNETLoader": _weights("unet_name"),
    "LTXAVTextEncoderLoader": _weights("text_encoder", "ckpt_name"),
    "LTXVGemmaCLIPModelLoader": _weights("gemma_path", "ltxv_path"),
    "LatentUpscaleModelLoader": _weights("model_name"),
    "LoraLoader": _lora("model", "clip"),
    "LoraLoaderModelOnly": _lora("model"),
    "LTXVQ8LoraModelLoader": _lora("model"),
    "LTXICLoRALoaderModelOnly": _ic_lora,
    "LoadImage": _upload(_image, "image"),
    "LoadVideo": _upload(_video, "file"),
}
