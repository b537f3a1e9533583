"""What people give to `models add`, and what it means."""

import pytest

from ltxops.errors import BadInput
from ltxops.models.addresses import (
    Address,
    HubAddress,
    LinkAddress,
    PathAddress,
    is_loopback,
    parse,
    shown,
    url_problem,
)

MIRROR = "http://127.0.0.1:18388"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("o/r", HubAddress("o/r", None, None)),
        ("o/r@v1", HubAddress("o/r", None, "v1")),
        ("o/r:a.safetensors", HubAddress("o/r", "a.safetensors", None)),
        ("o/r:deep/a.safetensors@refs/pr/1", HubAddress("o/r", "deep/a.safetensors", "refs/pr/1")),
        ("o/r:odd@name.safetensors", HubAddress("o/r", "odd@name.safetensors", None)),
        ("https://huggingface.co/o/r", HubAddress("o/r", None, None)),
        ("https://huggingface.co/o/r/tree/v1", HubAddress("o/r", None, "v1")),
        ("https://huggingface.co/o/r/blob/main/a.safetensors", HubAddress("o/r", "a.safetensors", None)),
        (
            "https://hf.co/o/r/resolve/refs%2Fpr%2F1/deep/a%20b.safetensors?download=true",
            HubAddress("o/r", "deep/a b.safetensors", "refs/pr/1"),
        ),
        (f"{MIRROR}/o/r/blob/v2/a.safetensors", HubAddress("o/r", "a.safetensors", "v2")),
        ("https://example.org/a.safetensors", LinkAddress("https://example.org/a.safetensors")),
        ("http://[::1]:9/a.safetensors", LinkAddress("http://[::1]:9/a.safetensors")),
        (
            "https://civitai.com/api/download/models/1?type=Model",
            LinkAddress("https://civitai.com/api/download/models/1?type=Model"),
        ),
        ("/a.safetensors", PathAddress("/a.safetensors")),
        ("./o/r", PathAddress("./o/r")),
        ("~/a.safetensors", PathAddress("~/a.safetensors")),
        ("loras/a.safetensors", PathAddress("loras/a.safetensors")),
    ],
)
def test_each_form_is_understood(text: str, address: Address) -> None:
    assert parse(text, MIRROR) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("word", "is not OWNER/REPO"),
        ("o/r/x", "is not OWNER/REPO"),
        ("o/r:", "is not OWNER/REPO"),
        ("o/../r", "is not OWNER/REPO"),
        ("http://example.org/a.safetensors", "is plain http"),
        ("http://127.0.0.1.example.org/a.safetensors", "is plain http"),
        ("ftp://example.org/a.safetensors", "starts with https://"),
        ("https:///a.safetensors", "names a host"),
        ("https://u:p@example.org/a.safetensors", "carries a user name"),
        ("https://example.org/a.safetensors?Token=abcdef", "carries a secret"),
        ("https://example.org/a.safetensors?X-Amz-Signature=abcdef", "carries a secret"),
        ("https://example.org/a.safetensors?Expires=1&Signature=abcdef", "carries a secret"),
        ("https://example.org:port/a.safetensors", "is not a URL"),
        ("https://huggingface.co/o/r/discussions/1", "is not the page of a file"),
        ("https://huggingface.co/o/r/blob/main", "is not the page of a file"),
    ],
)
def test_what_cannot_be_added_is_refused_without_its_secrets(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        parse(text, MIRROR)
    assert "abcdef" not in str(caught.value)
    assert "u:p" not in str(caught.value)


def test_only_this_machine_is_loopback() -> None:
    assert is_loopback("localhost") and is_loopback("127.9.9.9") and is_loopback("::1")
    assert not is_loopback("localhost.example.org") and not is_loopback("10.0.0.1")
    assert url_problem("http://localhost:1/x") is None
    assert shown("https://u:p@h/x?token=y") == "https://h/x"
