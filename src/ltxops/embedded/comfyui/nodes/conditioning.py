"""Nodes about prompts and the plain values around them."""

from ltxops.embedded.comfyui.nodes.context import Context, Inputs, Node, Result
from ltxops.embedded.comfyui.values import Conditioning, Guider


def _encode(context: Context, inputs: Inputs) -> Result:
    return Result((Conditioning(inputs["text"]),))


def _both(context: Context, inputs: Inputs) -> Result:
    return Result((inputs["positive"], inputs["negative"]))


def _lotus(context: Context, inputs: Inputs) -> Result:
    return Result((Conditioning(""),))


def _value(context: Context, inputs: Inputs) -> Result:
    return Result((inputs["value"],))


def _model(context: Context, inputs: Inputs) -> Result:
    return Result((inputs["model"],))


def _guider(name: str) -> Node:
    """Return a guider node that follows the conditioning in input `name`."""

    def guide(context: Context, inputs: Inputs) -> Result:
        return Result((Guider(inputs[name]),))

    return guide


NODES: dict[str, Node] = {
    "CLIPTextEncode": _encode,
    "LTXVConditioning": _both,
    "LotusConditioning": _lotus,
    "PrimitiveInt": _value,
    "PrimitiveFloat": _value,
    "ModelSamplingLTXV": _model,
    "CFGGuider": _guider("positive"),
    "BasicGuider": _guider("conditioning"),
}
