"""What is refused before anything starts, or before there is a job; and what no line of the log holds."""

import base64
import logging
from pathlib import Path
from typing import Any

import pytest

from ltxops.errors import BadInput
from ltxops.wrapper.delivery.addresses import parse_networks
from ltxops.wrapper.delivery.redaction import redact
from ltxops.wrapper.delivery.s3 import Destination
from ltxops.wrapper.delivery.service import Delivery
from ltxops.wrapper.delivery.settings import DeliverySettings
from ltxops.wrapper.logs import HarmlessFormatter
from ltxops.wrapper.refusals import Refused
from ltxops.wrapper.schema import GenerateInput

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
HOST = Destination(
    "host-id", "host-secret", "host-bucket", "http://10.0.0.5:9000", "us-east-1", checked=False
)
URL = "https://media.example/a.png"
S3 = {"access_key_id": "id", "secret_access_key": "secret", "bucket_name": "bucket"}


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


ENVIRONMENT = {
    "S3_ACCESS_KEY_ID": "id",
    "S3_SECRET_ACCESS_KEY": "very-secret",
    "S3_BUCKET_NAME": "bucket",
    "S3_ENDPOINT_URL": "http://10.0.0.5:9000",
    "WEBHOOK_URL": "http://10.0.0.6/hook",
    "WEBHOOK_SECRET": SECRET,
}


def test_settings_come_from_the_environment() -> None:
    settings = DeliverySettings.from_environment(
        {
            **ENVIRONMENT,
            "S3_URL_EXPIRY_SECONDS": "3600",
            "S3_KEY_PREFIX": "/videos/a/",
            "WEBHOOK_RETRY_SECONDS": "1,2",
        }
    )
    assert settings.s3 == Destination(
        "id", "very-secret", "bucket", "http://10.0.0.5:9000", "us-east-1", checked=False
    )
    assert (settings.url_expiry_seconds, settings.key_prefix) == (3600, "videos/a/")
    assert settings.webhook_url == "http://10.0.0.6/hook" and settings.webhook_retry_seconds == (1.0, 2.0)
    nothing = DeliverySettings.from_environment({"S3_BUCKET_NAME": "", "WEBHOOK_URL": " "})
    assert nothing == DeliverySettings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("S3_URL_EXPIRY_SECONDS", "604801"),  # R57
        ("S3_URL_EXPIRY_SECONDS", "0"),
        ("S3_URL_EXPIRY_SECONDS", "1h"),
        ("S3_SECRET_ACCESS_KEY", ""),
        ("S3_BUCKET_NAME", "arn:aws:s3:::x"),
        ("S3_REGION", "evil.example/#"),
        ("S3_ENDPOINT_URL", "https://key:word@s3.example.com"),
        ("S3_ENDPOINT_URL", "https://s3.example.com/?x=y"),
        ("S3_KEY_PREFIX", "../up"),
        ("WEBHOOK_URL", "ftp://x"),
        ("WEBHOOK_SECRET", "very-secret"),
        ("WEBHOOK_RETRY_SECONDS", "5,never"),
        ("WRAPPER_ALLOWED_NETWORKS", "all"),
        ("WRAPPER_INPUT_MAX_BYTES", "-1"),
        ("WRAPPER_INPUT_TIMEOUT_SECONDS", "nan"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_starts(name: str, value: str) -> None:
    with pytest.raises(BadInput, match="S3_" if name.startswith("S3_") else name) as caught:
        DeliverySettings.from_environment({**ENVIRONMENT, name: value})
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "request_fields"),
    [
        ("incomplete_s3", {"s3": {"bucket_name": "b"}}),  # R55
        ("incomplete_s3", {"s3": {"endpoint_url": "https://s3.example.com"}}),
        ("invalid_s3", {"s3": {**S3, "endpoint_url": "http://169.254.169.254"}}),  # R51
        ("invalid_s3", {"s3": {**S3, "endpoint_url": "http://127.1:9000"}}),
        ("invalid_s3", {"s3": {**S3, "region": "evil.example/"}}),
        ("invalid_expiry", {"s3": {**S3, "url_expiry_seconds": 604_801}}),  # R57
        ("invalid_expiry", {"s3": {"url_expiry_seconds": 0}}),
        ("invalid_webhook", {"webhook": {"url": "http://localhost:80\\@example.com"}}),
        ("invalid_webhook", {"webhook": {"url": "http://[::1]/"}}),
        ("invalid_webhook", {"webhook": {"url": "https://user@example.com"}}),
        ("too_many_params", {"webhook": {"url": "https://example.com", "extra_params": {"a": "x" * 70_000}}}),
        ("invalid_input_url", {"workflow_json": {"1": node("LoadImage", image="http://10.0.0.1/a.png")}}),
        (
            "too_many_inputs",
            {"workflow_json": {str(n): node("LoadImage", image=f"{URL}?{n}") for n in range(17)}},
        ),
    ],
)
def test_what_can_never_be_delivered_is_refused_before_there_is_a_job(
    tmp_path: Path, kind: str, request_fields: dict[str, Any]
) -> None:
    delivery = Delivery(DeliverySettings(s3=HOST), tmp_path / "outbox.sqlite3")
    with pytest.raises(Refused) as caught:
        delivery.check(GenerateInput.model_validate({"workflow_json": {}, **request_fields}))
    assert (caught.value.status, caught.value.error["type"]) == (400, kind)
    assert "secret" not in str(caught.value).replace("secret_access_key", "")


def test_what_can_be_delivered_is_taken(tmp_path: Path) -> None:
    delivery = Delivery(
        DeliverySettings(allowed_networks=parse_networks("10.0.0.0/8")), tmp_path / "outbox.sqlite3"
    )
    delivery.check(
        GenerateInput.model_validate(
            {
                "workflow_json": {"1": node("LoadImage", image="http://10.0.0.1/a.png")},
                "s3": {
                    **S3,
                    "endpoint_url": "http://10.1.1.1:9000",
                    "region": "",
                    "url_expiry_seconds": 604_800,
                },
                "webhook": {"url": "https://example.com/hook", "extra_params": {"user": 1}},
            }
        )
    )
    delivery.check(GenerateInput.model_validate({"workflow_json": {}, "s3": {}, "webhook": {"url": ""}}))


@pytest.mark.parametrize(
    "url",
    [
        "https://b.s3.amazonaws.com/k?X-Amz-Algorithm=A&X-Amz-Credential=AKIA%2F1&X-Amz-Signature=feed",
        "https://b.s3.amazonaws.com/k?AWSAccessKeyId=AKIA&Signature=feed&Expires=1",
        "https://storage.example/k?x=1&X-Goog-Signature=feed",
        "https://account.blob.example/k?sv=1&sig=feed",
    ],
)
def test_a_presigned_query_is_in_no_line_of_the_log(url: str) -> None:  # R57
    record = logging.LogRecord(
        "ltxops", logging.INFO, "", 0, "fetch of '%s' failed, %s", (url, "sadly"), None
    )
    line = HarmlessFormatter().format(record)
    assert "feed" not in line and "AKIA" not in line and line.endswith("/k?…' failed, sadly")
    assert redact("why? Signature unknown, design=1") == "why? Signature unknown, design=1"
