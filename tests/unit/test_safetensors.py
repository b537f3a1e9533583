"""The header of a safetensors file: what is taken, and how each damage is named."""

from pathlib import Path
from typing import Any

import pytest
from tests.weights_support import raw, safetensors, tensor

from ltxops.embedded.weights import files_of
from ltxops.errors import BadInput
from ltxops.models import manifest
from ltxops.models.safetensors import check_name, header_bytes, parse_header

REPOSITORY = Path(__file__).parents[2]


def parse(content: bytes, size: int | None = None) -> Any:
    return parse_header(content, len(content) if size is None else size)


def test_a_valid_file_tells_its_tensors_and_notes() -> None:
    header = parse(safetensors(b"12345678", format="pt"))
    assert (header.tensors, header.metadata) == (1, {"format": "pt"})
    several = raw(
        {
            "b": tensor("F16", [2, 3], 8, 20),
            "a": tensor("F32", [2], 0, 8),
            "scalar": tensor("I64", [], 20, 28),
            "none": tensor("F32", [0, 5], 20, 20),
            "fp4": tensor("F4", [4], 28, 30),
            "later": tensor("X12_NEW", [7], 30, 31),
        },
        bytes(31),
    )
    assert parse(several).tensors == 6
    assert parse(raw("{}   ")).tensors == 0


@pytest.mark.parametrize("length", [0x3C, 0x280])
def test_a_length_that_looks_like_another_kind_of_file_is_a_length(length: int) -> None:
    content = raw("{}".ljust(length))
    assert content[:1] in (b"<", b"\x80")
    assert parse(content).tensors == 0


def test_the_stand_ins_of_the_embedded_hub_are_valid() -> None:
    for model in manifest.load(REPOSITORY / "models.yaml").models.values():
        for path, content in files_of(model).items():
            if path.endswith(".safetensors"):
                assert parse(content).tensors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too short"),
        (b"\x08\0\0\0", "too short"),
        (b"PK\x03\x04" + bytes(60), "pickle by its content"),
        (b"\x80\x02}q\x00." + bytes(60), "pickle by its content"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"GGUF\x03\0\0\0" + bytes(60), "no safetensors file: it begins with 4747"),
        ((2**63).to_bytes(8, "little") + b"{}", "no safetensors file"),
        ((100_000_001).to_bytes(8, "little") + b"{}", "no safetensors file"),
        ((3).to_bytes(8, "little") + b"{}", "no safetensors file"),
        (raw("[]"), "not a JSON object"),
        (raw(' {"a": 1}'), "not a JSON object"),
        (raw('{"a": '), "not valid JSON"),
        (raw('{"a": NaN}'), "NaN is not JSON"),
        (raw("{" + '"a":{' * 50_000), "not valid JSON"),
        (raw('{"a": {}, "a": {}}'), "a key is given twice"),
        (raw({"a": {}}), "not described rightly"),
        (raw({"a": tensor("F32", [1], 0, 4) | {"x": 1}}, bytes(4)), "not described rightly"),
        (raw({"a": tensor("f32!", [1], 0, 4)}, bytes(4)), "not described rightly"),
        (raw({"a": tensor("F32", [-1], 0, 4)}, bytes(4)), "not described rightly"),
        (raw({"a": tensor("F32", [True], 0, 4)}, bytes(4)), "not described rightly"),
        (raw({"a": tensor("F32", [2], 0, 4)}, bytes(4)), "not described rightly"),
        (raw({"a": tensor("F32", [2**62, 2**62], 0, 4)}, bytes(4)), "not described rightly"),
        (raw({"a": tensor("U8", [4], 4, 0)}, bytes(4)), "not described rightly"),
        (raw({"a": tensor("U8", [4], 1, 5)}, bytes(5)), "begins at 1, not at 0"),
        (
            raw({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 2, 6)}, bytes(6)),
            "begins at 2, not at 4",
        ),
        (raw({"a": tensor("U8", [4], 0, 4)}, bytes(5)), "take 4 bytes, but it has 5"),
        (raw({"a": tensor("U8", [4], 0, 4)}, bytes(3)), "take 4 bytes, but it has 3"),
        (raw({"__metadata__": {"a": 1}}), "__metadata__ is not a map of text"),
        (raw({"__metadata__": []}), "__metadata__ is not a map of text"),
    ],
)
def test_each_damage_is_named(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(content)


def test_a_file_that_ends_within_its_header_is_no_file() -> None:
    content = safetensors(b"12345678")
    assert header_bytes(content[:8], len(content)) == len(content) - 8
    with pytest.raises(ValueError, match="ends within its header"):
        parse(content[:20], len(content))


@pytest.mark.parametrize("name", ["a.ckpt", "a.PT", "a.pth", "a.bin", "a.pkl"])
def test_a_pickle_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(BadInput, match="pickle by its name"):
        check_name(name)
    with pytest.raises(BadInput, match="does not end in"):
        check_name("a.gguf")
    check_name("a.SafeTensors")
