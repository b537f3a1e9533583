"""What the wrapper takes for a job, and what it refuses."""

import json
import time
from typing import Any

import pytest
from tests.integration.no_delivery import NoDelivery

from ltxops.wrapper.refusals import Refused
from ltxops.wrapper.requests import (
    MAX_RANDOM_INT,
    RANDOM_INT,
    JobRequest,
    fill_random_ints,
    names_urls,
)
from ltxops.wrapper.requests import parse_request as parse_checked
from ltxops.wrapper.schema import GenerateInput

GRAPH = {"1": {"class_type": "EmptyImage", "inputs": {"width": 64}}}


def parse_request(data: bytes) -> JobRequest:
    """Return the job of a wrapper that delivers nothing."""
    return parse_checked(data, NoDelivery().check)


def anything(wanted: GenerateInput) -> None:
    """Take every delivery."""


def body(**fields: Any) -> bytes:
    """Return a request whose input has these fields."""
    return json.dumps({"input": {"workflow_json": GRAPH, **fields}}).encode()


def refusal(data: bytes) -> Refused:
    """Return how a body is refused, and hold that it was quick."""
    begun = time.monotonic()
    with pytest.raises(Refused) as caught:
        parse_request(data)
    assert time.monotonic() - begun < 30
    return caught.value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"not json",
        b"\xff\xfe\xfa",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"input": null}',
        b'{"input": []}',
        b'{"input": {}}',
        b'{"input": {"workflow_json": null}}',
        b'{"input": {"workflow_json": "{}"}}',
        b'{"input": {"workflow_json": {"nodes": [], "links": []}}}',
        b'{"input": {"workflow_json": {"1": {"class_type": 5}}}}',
        b'{"input": {"workflow_json": {"1": {"class_type": "X", "inputs": []}}}}',
        b'{"input": {"workflow_json": {"1": {"inputs": {"a": NaN}}}}}',
        b'{"input": {"workflow_json": {"1": {"inputs": {"a": 1e999}}}}}',
        b'{"input": {"workflow_json": {"1": {"inputs": {"a": ' + b"9" * 5000 + b"}}}}}",
        b'{"input": {"workflow_json": {}, "request_id": 5}}',
        b'{"input": {"workflow_json": {}, "s3": 5}}',
        b'{"input": {"workflow_json": {}, "webhook": {"url": 5}}}',
        b'{"input": {"workflow_json": {}, "request_id": "\\ud800"}}',
    ],
)
def test_what_is_no_request_is_refused_with_a_sentence(data: bytes) -> None:  # R60
    refused = refusal(data)
    assert refused.status == 400
    assert 20 < len(str(refused)) < 400 and "\n" not in str(refused)


@pytest.mark.parametrize("depth", [70, 900, 100_000])
def test_deep_nesting_is_refused_and_breaks_no_parser(depth: int) -> None:  # R60
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        nested = opening * depth + b"1" + closing * depth
        data = b'{"input": {"workflow_json": {"1": {"inputs": {"a": ' + nested + b"}}}}}"
        assert refusal(data).error["type"] == "too_deep"


def test_a_workflow_may_nest_as_deep_as_any_real_one() -> None:
    value: Any = 1
    for _ in range(50):
        value = [value]
    parse_request(body(workflow_json={"1": {"class_type": "X", "inputs": {"a": value}}}))


@pytest.mark.parametrize(
    "request_id", ["a/b", "..", ".", "a b", "a\0b", "a\n", "x" * 129, "x" * 10_000, "é", "../../etc"]
)
def test_a_request_id_that_cannot_be_a_folder_is_refused(request_id: str) -> None:  # R61
    refused = refusal(body(request_id=request_id))
    assert refused.status == 400 and refused.error["type"] == "invalid_request_id"
    assert len(str(refused)) < 300, "the message does not carry the whole id"


@pytest.mark.parametrize("fields", [{}, {"request_id": ""}, {"request_id": None}])
def test_an_absent_or_empty_request_id_is_made_up_each_time(fields: dict[str, Any]) -> None:
    first, second = parse_request(body(**fields)), parse_request(body(**fields))
    assert len(first.id) == 36 and first.id != second.id


@pytest.mark.parametrize("request_id", ["a", "x" * 128, "A-b_9", "-"])
def test_a_request_id_is_kept_as_given(request_id: str) -> None:
    assert parse_request(body(request_id=request_id)).id == request_id


def test_the_empty_settings_of_the_documented_example_ask_for_nothing() -> None:
    fields = ("access_key_id", "secret_access_key", "endpoint_url", "bucket_name", "region")
    wanted = parse_request(body(request_id="", s3=dict.fromkeys(fields, ""), webhook={"url": ""}))
    assert wanted.graph == GRAPH and wanted.s3 is None and wanted.webhook is None
    absents: list[Any] = [None, {}, ""]
    for absent in absents:
        assert parse_request(body(s3=absent, webhook=absent)).fingerprint == wanted.fingerprint


@pytest.mark.parametrize(
    "fields", [{"s3": {"bucket_name": "videos"}}, {"webhook": {"url": "https://example.org/done"}}]
)
def test_a_delivery_that_is_not_made_is_refused_and_not_ignored(fields: dict[str, Any]) -> None:
    refused = refusal(body(**fields))
    assert refused.status == 400 and f"input.{next(iter(fields))} is set" in str(refused)


def test_another_delivery_is_another_request() -> None:  # R61
    """Parameters without a URL are for the address that the host has."""
    asked: list[dict[str, Any]] = [
        {},
        {"s3": {"bucket_name": "a"}},
        {"s3": {"bucket_name": "b"}},
        {"webhook": {"url": "https://example.org/done"}},
        {"webhook": {"url": "", "extra_params": {"user_id": "12345"}}},
    ]
    requests = [parse_checked(body(**fields), anything) for fields in asked]
    assert len({request.fingerprint for request in requests}) == len(asked)
    webhook = requests[4].webhook
    assert webhook is not None and webhook.extra_params == {"user_id": "12345"}


def test_a_graph_that_names_urls_is_known() -> None:
    for value, expected in (
        ("https://example.org/a.png", True),
        ("HTTP://example.org/a.png", True),
        ("see https://example.org", False),
        (5, False),
    ):
        assert names_urls({"1": {"class_type": "LoadImage", "inputs": {"image": value}}}) is expected
    assert names_urls({"1": {"class_type": "X"}}) is False


def test_the_same_workflow_has_the_same_fingerprint_in_any_spelling() -> None:
    first = parse_request(b'{"input": {"workflow_json": {"1": {"class_type": "A", "inputs": {"x": 1}}}}}')
    second = parse_request(
        b'{"input":{"workflow_json":{"1":{"inputs":{"x":1},"class_type":"\\u0041"}},"request_id":"b"}}'
    )
    other = parse_request(b'{"input": {"workflow_json": {"1": {"class_type": "A", "inputs": {"x": 2}}}}}')
    assert first.fingerprint == second.fingerprint != other.fingerprint


def test_each_random_int_is_replaced_by_another_number_and_nothing_else_is() -> None:
    graph: dict[str, Any] = {
        "1": {"inputs": {"seed": RANDOM_INT, "nested": [RANDOM_INT, {"deep": RANDOM_INT}]}},
        "2": {"inputs": {"text": f"draw {RANDOM_INT}", "steps": 20, "on": True, RANDOM_INT: None}},
    }
    filled = fill_random_ints(graph)
    seeds = [filled["1"]["inputs"]["seed"], filled["1"]["inputs"]["nested"][0]]
    seeds.append(filled["1"]["inputs"]["nested"][1]["deep"])
    assert all(type(seed) is int and 0 <= seed <= MAX_RANDOM_INT for seed in seeds)
    assert len(set(seeds)) == 3
    assert filled["2"] == graph["2"]
    assert graph["1"]["inputs"]["seed"] == RANDOM_INT, "the request itself is unchanged"
    assert fill_random_ints(graph) != filled
