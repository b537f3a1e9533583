"""What the delivery decides without a network: inputs, storage, signatures, schedules."""

import base64
import json
import time
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from ltxops.errors import BadInput
from ltxops.wrapper.delivery.inputs import file_type, references, replace
from ltxops.wrapper.delivery.s3 import (
    PART_BYTES,
    Destination,
    DestinationIncomplete,
    choose,
    content_type,
    object_keys,
    part_is_intact,
    part_sizes,
)
from ltxops.wrapper.delivery.signing import headers, parse_secrets
from ltxops.wrapper.delivery.webhooks import event_of, judge, retry_after_seconds, wait_before
from ltxops.wrapper.schema import OutputItem, S3Settings

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
HOST = Destination(
    "host-id", "host-secret", "host-bucket", "http://10.0.0.5:9000", "us-east-1", checked=False
)
URL = "https://media.example/a.png"
S3: dict[str, Any] = {"access_key_id": "id", "secret_access_key": "secret", "bucket_name": "bucket"}


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def test_only_inputs_that_take_a_file_are_fetched() -> None:
    graph = {
        "image": node("LoadImage", image=URL),
        "mask": node("LoadImageMask", image=f"  {URL} ", channel="alpha"),
        "video": node("LoadVideo", file="HTTP://media.example/a.mp4"),
        "audio": node("LoadAudio", audio="https://media.example/a.wav"),
        "vhs": node("VHS_LoadVideo", video="https://media.example/b.mp4"),
        "prompt": node("CLIPTextEncode", text=URL),
        "prompt-with-a-telling-name": node("TextNode", image=URL),
        "own-fetch": node("LoadImageFromUrl", image=URL),
        "other-input": node("LoadImage", image="a.png", upload=URL),
        "text-before": node("LoadImage", image=f"see {URL}"),
        "link": node("LoadImage", image=["image", 0]),
        "bare": {"class_type": "LoadImage"},
    }
    found = {reference.node_id: reference.kind for reference in references(graph)}
    assert found == {"image": "image", "mask": "image", "video": "file", "audio": "audio", "vhs": "video"}
    replaced = replace(graph, {reference.url: "ltxops/j/1" for reference in references(graph)})
    assert replaced["image"]["inputs"]["image"] == "ltxops/j/1"
    assert replaced["mask"]["inputs"] == {"image": "ltxops/j/1", "channel": "alpha"}
    assert replaced["prompt"] == graph["prompt"] and graph["image"]["inputs"]["image"] == URL


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\x89PNG\r\n\x1a\n....", ("image", ".png")),
        (b"\xff\xd8\xff\xe0....", ("image", ".jpg")),
        (b"RIFF\0\0\0\0WEBPVP8 ", ("image", ".webp")),
        (b"GIF89a....", ("image", ".gif")),
        (b"\0\0\0\x20ftypisom\0\0", ("video", ".mp4")),
        (b"\0\0\0\x14ftypqt  ", ("video", ".mov")),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\x82\x84webm", ("video", ".webm")),
        (b"RIFF\0\0\0\0WAVEfmt ", ("audio", ".wav")),
        (b"ID3\x04\0", ("audio", ".mp3")),
        (b"\xff\xfb\x90\x64", ("audio", ".mp3")),
        (b"fLaC\0\0", ("audio", ".flac")),
        (b"OggS\0\0", ("audio", ".ogg")),
        (b"\0\0\0\x20ftypM4A ", ("audio", ".m4a")),
        (b"\0\0\0\x20ftypavif", None),
        (b"\x1aE\xdf\xa3\x9fmatroska", None),
        (b"RIFF\0\0\0\0AVI LIST", None),
        (b"<!doctype html><html>", None),
        (b"<svg xmlns='http://www.w3.org/2000/svg'>", None),
        (b"\xff\xfe<\0s\0v\0g\0", None),
        (b"PK\x03\x04", None),
        (b"", None),
    ],
)
def test_a_file_is_what_its_bytes_say(head: bytes, expected: tuple[str, str] | None) -> None:
    assert file_type(head) == expected


def test_the_hosts_destination_is_used_only_when_the_request_names_none() -> None:  # R55
    assert choose(None, HOST, ()) is HOST
    assert choose(S3Settings(), HOST, ()) is HOST
    assert choose(S3Settings(endpoint_url=" ", url_expiry_seconds=60), HOST, ()) is HOST
    assert choose(None, None, ()) is None
    own = choose(S3Settings(**S3, endpoint_url="https://s3.example.com/"), HOST, ())
    assert own == Destination("id", "secret", "bucket", "https://s3.example.com", "us-east-1", checked=True)
    amazon = choose(S3Settings(**S3, region="eu-west-1"), HOST, ())
    assert amazon is not None and amazon.endpoint_url is None and amazon.checked


@pytest.mark.parametrize(
    "field", ["access_key_id", "secret_access_key", "endpoint_url", "bucket_name", "region"]
)
def test_one_field_of_a_request_never_gets_the_hosts_others(field: str) -> None:  # R55
    value = {"endpoint_url": "https://s3.example.com"}.get(field, "some-value")
    with pytest.raises(DestinationIncomplete):
        choose(S3Settings.model_validate({field: value}), HOST, ())


def test_no_key_shows_in_a_representation() -> None:
    assert "host-secret" not in repr(HOST) and "host-id" not in repr(HOST)
    assert "secret-value" not in repr(S3Settings(secret_access_key="secret-value"))


def test_two_outputs_of_one_name_get_two_keys() -> None:
    def output(path: str) -> OutputItem:
        return OutputItem(
            filename="x", local_path=path, type="output", subfolder="", node_id="1", output_type="images"
        )

    items = [output("/o/j/a.mp4"), output("/o/sub/a.mp4"), output("/o/j/b.png")]
    assert object_keys("p/", "job", items) == ["p/job/a.mp4", "p/job/a-2.mp4", "p/job/b.png"]
    assert content_type("A.MP4") == "video/mp4" and content_type("a.html") == "application/octet-stream"


def test_parts_cover_a_file_and_are_no_more_than_storage_takes() -> None:  # R57
    assert part_sizes(PART_BYTES + 1) == [PART_BYTES, 1]
    assert part_sizes(2 * PART_BYTES) == [PART_BYTES] * 2
    huge = part_sizes(5 * 2**40)
    assert sum(huge) == 5 * 2**40 and len(huge) <= 10_000


def test_an_etag_counts_only_where_it_is_an_md5() -> None:  # R56
    md5 = "0" * 32
    assert part_is_intact(f'"{md5}"', md5, None) and not part_is_intact('"' + "1" * 32 + '"', md5, "AES256")
    assert part_is_intact('"' + "1" * 32 + '"', md5, "aws:kms") and part_is_intact(
        '"opaque-value"', md5, None
    )


def test_signatures_verify_with_the_specifications_own_library() -> None:  # R53
    body = b'{"id":"a"}'
    sent = headers("msg_1", int(time.time()), body, parse_secrets(SECRET))
    assert Webhook(SECRET).verify(body, sent) == {"id": "a"}
    stale = headers("msg_1", int(time.time()) - 3600, body, parse_secrets(SECRET))
    for altered_body, altered in (
        (b'{"id":"b"}', sent),
        (body, {**sent, "webhook-id": "msg_2"}),
        (body, {**sent, "webhook-timestamp": str(int(sent["webhook-timestamp"]) + 1)}),
        (body, stale),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(altered_body, altered)


def test_two_secrets_sign_while_one_replaces_the_other_and_none_sends_no_signature() -> None:
    other = "whsec_" + base64.b64encode(b"x" * 24).decode()
    sent = headers("msg_1", int(time.time()), b"{}", parse_secrets(f"{SECRET} {other}"))
    assert Webhook(SECRET).verify(b"{}", sent) == Webhook(other).verify(b"{}", sent) == {}
    assert "webhook-signature" not in headers("msg_1", 1, b"{}", ())


@pytest.mark.parametrize(
    "text", ["short", "whsec_", "whsec_" + "A" * 20, "not base64 !", "whsec_" + "A" * 400]
)
def test_a_secret_that_is_none_is_refused_unseen(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_secrets(text)
    assert text.split("_")[-1] not in str(caught.value) or not text.split("_")[-1]


def test_the_same_end_of_a_job_is_the_same_event() -> None:  # R53
    envelope = {
        "status": "completed",
        "message": "m",
        "output": [{"filename": "f"}],
        "timings": {"total": 1.0},
    }
    first = event_of("job", envelope, {"status": "mine"}, "https://a.example:8443/x", of_host=False)
    assert first == event_of(
        "job", dict(envelope), {"status": "mine"}, "https://a.example:8443/x", of_host=False
    )
    assert first.id != event_of("job2", envelope, None, "https://a.example:8443/x", of_host=False).id
    assert first.origin == "https://a.example:8443" and "." not in first.id
    assert json.loads(first.body) == {"id": "job", **envelope, "extra_params": {"status": "mine"}}


def test_retries_follow_the_schedule_and_the_receivers_wish_within_bounds() -> None:
    schedule = (5.0, 60.0)
    assert wait_before(1, schedule, None, 0) == 5.0
    assert wait_before(2, schedule, None, 1) == 72.0 and wait_before(2, schedule, None, -1) == 48.0
    assert wait_before(3, schedule, None, 0) is None
    assert wait_before(1, schedule, 30.0, 0) == 30.0 and wait_before(1, schedule, 1e9, 0) == 3600.0
    assert [judge(status) for status in (200, 204, 301, 410, 500)] == [
        "delivered", "delivered", "failed", "gone", "failed",
    ]  # fmt: skip
    assert retry_after_seconds("17", 0) == 17 and retry_after_seconds("soon", 0) is None
    assert retry_after_seconds("Thu, 01 Jan 1970 00:01:00 GMT", 30) == 30
