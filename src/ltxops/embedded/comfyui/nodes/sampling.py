"""Nodes that sample: they take as many steps as a GPU would, and leave a seed behind."""

import re

from ltxops.embedded.comfyui.nodes.context import Context, Inputs, Node, Result
from ltxops.embedded.comfyui.values import Latent, Noise

NUMBER = re.compile(r"[-+]?\d*\.?\d+")
#: The first sigma of a schedule; only how many there are matters here.
Sigmas = tuple[float, ...]


def _steps(context: Context, count: int) -> None:
    for done in range(1, count + 1):
        context.step(done, count)


def _schedule(steps: int) -> Sigmas:
    """Return a straight schedule: one sigma more than there are steps."""
    return tuple(1 - number / steps for number in range(steps + 1))


def _ltx_scheduler(context: Context, inputs: Inputs) -> Result:
    return Result((_schedule(inputs["steps"]),))


def _basic_scheduler(context: Context, inputs: Inputs) -> Result:
    return Result((_schedule(inputs["steps"]) if inputs["denoise"] > 0 else (),))


def _manual_sigmas(context: Context, inputs: Inputs) -> Result:
    return Result((tuple(float(number) for number in NUMBER.findall(inputs["sigmas"])),))


def _first_sigma(context: Context, inputs: Inputs) -> Result:
    return Result(((inputs["sigma"], *inputs["sigmas"][1:]),))


def _select(context: Context, inputs: Inputs) -> Result:
    return Result((inputs["sampler_name"],))


def _noise(context: Context, inputs: Inputs) -> Result:
    return Result((Noise(inputs.get("noise_seed", 0)),))


def _ksampler(context: Context, inputs: Inputs) -> Result:
    latent: Latent = inputs["latent_image"]
    if inputs["denoise"] <= 0:
        return Result((latent,))
    _steps(context, inputs["steps"])
    return Result((latent.sampled(inputs["seed"], inputs["positive"].text),))


def _ksampler_advanced(context: Context, inputs: Inputs) -> Result:
    latent: Latent = inputs["latent_image"]
    _steps(context, max(0, min(inputs["end_at_step"], inputs["steps"]) - inputs["start_at_step"]))
    seed = inputs["noise_seed"] if inputs["add_noise"] == "enable" else 0
    return Result((latent.sampled(seed, inputs["positive"].text),))


def _custom(context: Context, inputs: Inputs) -> Result:
    latent: Latent = inputs["latent_image"]
    if len(inputs["sigmas"]) == 0:
        return Result((latent, latent))
    _steps(context, len(inputs["sigmas"]) - 1)
    done = latent.sampled(inputs["noise_seed"] if inputs["add_noise"] else 0, inputs["positive"].text)
    return Result((done, done))


def _custom_advanced(context: Context, inputs: Inputs) -> Result:
    latent: Latent = inputs["latent_image"]
    if len(inputs["sigmas"]) == 0:
        return Result((latent, latent))
    _steps(context, len(inputs["sigmas"]) - 1)
    done = latent.sampled(inputs["noise"].seed, inputs["guider"].positive.text)
    return Result((done, done))


NODES: dict[str, Node] = {
    "LTXVScheduler": _ltx_scheduler,
    "BasicScheduler": _basic_scheduler,
    "ManualSigmas": _manual_sigmas,
    "SetFirstSigma": _first_sigma,
    "KSamplerSelect": _select,
    "RandomNoise": _noise,
    "DisableNoise": _noise,
    "KSampler": _ksampler,
    "KSamplerAdvanced": _ksampler_advanced,
    "SamplerCustom": _custom,
    "SamplerCustomAdvanced": _custom_advanced,
}
