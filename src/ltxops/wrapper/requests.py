"""From the bytes of a request to a job: parsed, checked and told apart from others. No I/O.

Everything here must hold against a hostile body: a refusal is one sentence and takes milliseconds.
"""

import hashlib
import json
import math
import random
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import ValidationError

from ltxops.wrapper.refusals import Refused
from ltxops.wrapper.schema import (
    REQUEST_ID_PATTERN,
    GenerateInput,
    GenerateRequest,
    S3Settings,
    WebhookSettings,
)

#: A graph nests node → inputs → a link or a list of values; far deeper is an attack on a recursive parser.
MAX_DEPTH = 64
RANDOM_INT = "__RANDOM_INT__"
#: Largest random integer put into a graph. Core nodes take seeds up to 2**64 - 1, custom nodes often only
#: what numpy's legacy seed takes, or a signed 32-bit integer: all take this.
MAX_RANDOM_INT = 2**31 - 1

_random = random.SystemRandom()


@dataclass(frozen=True)
class JobRequest:
    """A checked request. `fingerprint` is equal exactly when two requests ask for the same thing.

    `s3` and `webhook` are None when the request leaves them to the host's own settings. `size` is that of its
    body in bytes.
    """

    id: str
    graph: dict[str, Any]
    fingerprint: str
    s3: S3Settings | None = None
    webhook: WebhookSettings | None = None
    size: int = 0

    def stored(self) -> dict[str, Any]:
        """Return what is needed to run the job, as JSON, its random integers drawn."""
        return {
            "graph": fill_random_ints(self.graph),
            "s3": None if self.s3 is None else self.s3.model_dump(),
            "webhook": None if self.webhook is None else self.webhook.model_dump(),
        }


def check_request_id(request_id: str) -> str:
    """Return `request_id` when it can name a job, else raise Refused(400)."""
    if not re.fullmatch(REQUEST_ID_PATTERN, request_id):
        seen = ascii(request_id[:40]) + ("…" if len(request_id) > 40 else "")
        raise Refused(
            400,
            "invalid_request_id",
            f"request_id {seen} of {len(request_id)} characters cannot name a job; use 1 to 128 letters, "
            "digits, '-' and '_', or leave it out",
        )
    return request_id


def parse_request(body: bytes, check: Callable[[GenerateInput], None]) -> JobRequest:
    """Return the job that `body` asks for; raises Refused with a 4xx when it asks for none.

    `check` raises Refused for what could never be delivered.
    """
    document = _load_json(body)
    _check_values(document)
    if not isinstance(document, dict):
        raise Refused(
            400, "invalid_request", 'the body is no JSON object; send {"input": {"workflow_json": {…}}}'
        )
    try:
        wanted = GenerateRequest.model_validate(document).input
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(
            400, "invalid_request", f"the request's field {where!a} is wrong: {first['msg']}"
        ) from None
    _check_nodes(wanted.workflow_json)
    check(wanted)
    request_id = check_request_id(wanted.request_id) if wanted.request_id is not None else str(uuid.uuid4())
    s3 = wanted.s3 if wanted.s3 is not None and wanted.s3.given() else None
    webhook = wanted.webhook if wanted.webhook is not None and _asks(wanted.webhook) else None
    settings = [None if given is None else given.model_dump() for given in (s3, webhook)]
    canonical = json.dumps([wanted.workflow_json, *settings], sort_keys=True, separators=(",", ":"))
    fingerprint = hashlib.sha256(canonical.encode()).hexdigest()
    return JobRequest(request_id, wanted.workflow_json, fingerprint, s3, webhook, len(body))


def _asks(webhook: WebhookSettings) -> bool:
    """Parameters alone go to the address that the host has."""
    return webhook.given() or bool(webhook.extra_params)


def names_urls(graph: dict[str, Any]) -> bool:
    """Say whether an input of the graph might be something to fetch: then only the fetched one is checked."""
    values = [value for node in graph.values() for value in node.get("inputs", {}).values()]
    return any(
        isinstance(value, str) and value[:8].lower().startswith(("http://", "https://")) for value in values
    )


def fill_random_ints(value: Any) -> Any:
    """Return a copy of a graph with a random integer for each value that is exactly `__RANDOM_INT__`.

    Part of a longer text is left alone: a prompt may speak of it.
    """
    if isinstance(value, dict):
        return {key: fill_random_ints(item) for key, item in value.items()}
    if isinstance(value, list):
        return [fill_random_ints(item) for item in value]
    return _random.randint(0, MAX_RANDOM_INT) if value == RANDOM_INT else value


def _load_json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError):
            reason = f"line {error.lineno}, column {error.colno}: {error.msg}"
        else:
            reason = (
                "not UTF-8 text" if isinstance(error, UnicodeError) else "an integer of thousands of digits"
            )
        raise Refused(400, "invalid_json", f"the body is no JSON ({reason}); send one JSON object") from None


def _refuse_constant(name: str) -> NoReturn:
    raise Refused(
        400, "invalid_json", f"the body has the value {name}, which is no JSON; send a finite number"
    )


def _too_deep() -> Refused:
    return Refused(400, "too_deep", f"the body nests deeper than {MAX_DEPTH} levels; no workflow needs that")


def _check_values(document: Any) -> None:
    """Refuse what would break a recursive walk or could not be written back as JSON."""
    level = [document]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, float) and not math.isfinite(value):
                raise Refused(
                    400, "invalid_json", "the body has a number too large for a float; send a finite one"
                )
        if not below:
            return
        level = below
    raise _too_deep()


def _check_nodes(graph: dict[str, Any]) -> None:
    """Refuse a graph of the wrong shape: some of them ComfyUI answers with an internal error of its own."""
    for node_id, node in graph.items():
        shaped = isinstance(node, dict) and isinstance(node.get("inputs", {}), dict)
        if not shaped or not isinstance(node.get("class_type", ""), str):
            raise Refused(
                400,
                "invalid_workflow",
                f"workflow_json has no node under {node_id[:40]!a}, where an object with class_type and "
                "inputs belongs; export the workflow from ComfyUI in API format",
            )
