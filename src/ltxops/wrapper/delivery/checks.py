"""What of a request can never be delivered, found before it becomes a job. Nothing is looked up."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ltxops.wrapper.delivery.addresses import AddressRefused, Network, parse_url
from ltxops.wrapper.delivery.inputs import MAX_URLS, references
from ltxops.wrapper.delivery.s3 import MAX_EXPIRY_SECONDS, DestinationIncomplete, choose
from ltxops.wrapper.refusals import Refused
from ltxops.wrapper.schema import GenerateInput, S3Settings, WebhookSettings

#: Parameters for a webhook, as JSON: they wait in the outbox with the event.
MAX_EXTRA_BYTES = 65_536


def check_delivery(wanted: GenerateInput, allowed: Sequence[Network]) -> None:
    """Raise Refused(400) for storage, a webhook or an input that cannot be used."""
    if wanted.s3 is not None:
        _check_s3(wanted.s3, allowed)
    if wanted.webhook is not None:
        _check_webhook(wanted.webhook, allowed)
    _check_inputs(wanted.workflow_json, allowed)


def _check_s3(s3: S3Settings, allowed: Sequence[Network]) -> None:
    expiry = s3.url_expiry_seconds
    if expiry is not None and not 1 <= expiry <= MAX_EXPIRY_SECONDS:
        raise Refused(
            400,
            "invalid_expiry",
            f"s3.url_expiry_seconds is {expiry}; give 1 to {MAX_EXPIRY_SECONDS} (7 days), the longest S3 "
            "signs for",
        )
    try:
        choose(s3, None, allowed)
    except DestinationIncomplete as error:
        missing = ", ".join(f"s3.{name}" for name in error.missing)
        raise Refused(
            400,
            "incomplete_s3",
            f"{missing} is missing: a request that names storage names all of it, as nothing is filled in "
            "from the host's own",
        ) from None
    except ValueError as error:
        raise Refused(400, "invalid_s3", f"s3 cannot be used: {error}") from None


def _check_webhook(webhook: WebhookSettings, allowed: Sequence[Network]) -> None:
    if len(json.dumps(webhook.extra_params or {})) > MAX_EXTRA_BYTES:
        raise Refused(
            400, "too_many_params", f"webhook.extra_params has more than {MAX_EXTRA_BYTES} bytes as JSON"
        )
    if webhook.url is None:
        return
    try:
        parse_url(webhook.url, allowed)
    except AddressRefused as error:
        raise Refused(400, "invalid_webhook", f"webhook.url cannot be called: {error}") from None


def _check_inputs(graph: Mapping[str, Any], allowed: Sequence[Network]) -> None:
    found = references(graph)
    if len({reference.url for reference in found}) > MAX_URLS:
        raise Refused(400, "too_many_inputs", f"workflow_json names more than {MAX_URLS} URLs as inputs")
    for reference in found:
        try:
            parse_url(reference.url, allowed)
        except AddressRefused as error:
            raise Refused(
                400,
                "invalid_input_url",
                f"{reference.name[:40]!a} of node {reference.node_id[:40]!a} cannot be fetched: {error}",
            ) from None
