"""Checks one input of a node: whether a link's type fits, whether a value is within its limits."""

from collections.abc import Callable, Iterator
from typing import Any

from ltxops.embedded.comfyui.catalog import NodeInfo

#: One complaint: type, message, details, extra_info.
Complaint = dict[str, Any]

MATCH_TYPE = "COMFY_MATCHTYPE_V3"
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
#: Longer lists of choices are counted, not spelt out, in an answer.
LONGEST_LIST_SHOWN = 20
CONVERSIONS: dict[str, Callable[[Any], Any]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


def complaint(kind: str, message: str, details: str, extra: dict[str, Any]) -> Complaint:
    """Return one complaint in the shape all of them have."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


def declared_inputs(node: NodeInfo, given: dict[str, Any]) -> Iterator[tuple[str, list[Any], bool]]:
    """Yield (name, [type, limits], required) of a node's inputs, with those that a chosen option adds."""
    for section in ("required", "optional"):
        for name, raw in node["input"].get(section, {}).items():
            spec = [raw[0], raw[1] if len(raw) > 1 else {}]
            yield name, spec, section == "required"
            if spec[0] != DYNAMIC_COMBO:
                continue
            for option in spec[1]["options"]:
                if option["key"] == given.get(name):
                    for inner, inner_spec, required in declared_inputs({"input": option["inputs"]}, given):
                        yield f"{name}.{inner}", inner_spec, required


def types_fit(received: str, wanted: Any) -> bool:
    """True when an output of type `received` may feed an input of type `wanted`; commas mean either."""
    if MATCH_TYPE in (received, wanted):
        return True
    if not isinstance(wanted, str):
        return False
    offered = {part.strip() for part in received.split(",")}
    accepted = {part.strip() for part in wanted.split(",")}
    return "*" in offered | accepted or bool(offered & accepted)


def value_complaints(inputs: dict[str, Any], name: str, spec: list[Any]) -> list[Complaint]:
    """Convert one value in place and check it against its limits or choices."""
    wanted, limits = spec
    extra: dict[str, Any] = {"input_name": name, "input_config": spec}
    value = inputs[name]
    try:
        if isinstance(value, dict) and "__value__" in value:
            value = inputs[name] = value["__value__"]
        if isinstance(wanted, str) and wanted in CONVERSIONS:
            value = inputs[name] = CONVERSIONS[wanted](value)
    except (TypeError, ValueError, OverflowError) as error:
        message = f"Failed to convert an input value to a {wanted} value"
        extra |= {"received_value": value, "exception_message": str(error)}
        return [complaint("invalid_input_type", message, f"{name}, {value}, {error}", extra)]
    extra["received_value"] = value
    if "min" in limits and value < limits["min"]:
        message = f"Value {value} smaller than min of {limits['min']}"
        return [complaint("value_smaller_than_min", message, name, extra)]
    if "max" in limits and value > limits["max"]:
        message = f"Value {value} bigger than max of {limits['max']}"
        return [complaint("value_bigger_than_max", message, name, extra)]
    choices = wanted if isinstance(wanted, list) else limits.get("options") if wanted == "COMBO" else None
    if choices is None or value in choices:
        return []
    shown = str(choices)
    if len(choices) > LONGEST_LIST_SHOWN:
        shown, extra["input_config"] = f"(list of length {len(choices)})", None
    return [complaint("value_not_in_list", "Value not in list", f"{name}: '{value}' not in {shown}", extra)]
