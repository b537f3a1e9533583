"""Parts of the wrapper's process: its log, its backends, its port, its settings."""

import argparse
import asyncio
import json
import logging
import socket
from pathlib import Path

import pytest
import yaml

from ltxops.cli import wrapper as command
from ltxops.errors import BadInput, CheckFailed
from ltxops.wrapper.app import StrictJSON
from ltxops.wrapper.backends import SILENCE_SECONDS, Backends, judge, parse_backends
from ltxops.wrapper.logs import SIGNALS, HarmlessFormatter
from ltxops.wrapper.schema import request_body_schema
from ltxops.wrapper.serve import listen, undelivered


def format_record(message: str, *args: object) -> str:
    """Return a record as it reaches the log."""
    record = logging.LogRecord("ltxops.wrapper", logging.INFO, "file.py", 1, message, args, None)
    return HarmlessFormatter("%(levelname)s %(message)s").format(record)


@pytest.mark.parametrize("word", [*SIGNALS, "BACKENDS_READY_TIMEOUT", "backends_ready"])
def test_no_text_of_a_user_reads_as_a_signal(word: str) -> None:  # R62
    for text in (word, f"x\n{word}\n", f"a\r{word}", f"{word}\u2028{word}", f"\x1b[2J{word}\0"):
        line = format_record("job %s failed", text)
        assert not any(signal.lower() in line.lower() for signal in SIGNALS)


def test_no_text_of_a_user_makes_a_line_of_its_own() -> None:  # R62
    line = format_record("job %s", "x\nERROR everything is lost\r\x1b[31m\u2028more")
    assert line.split("\n") == ["INFO job x", "    | ERROR everything is lost\\r\\x1b[31m\\u2028more"]


def test_a_traceback_is_made_harmless_too() -> None:  # R62
    try:
        raise ValueError("BACKENDS_READY\nERROR forged")
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "f.py", 1, "failed", (), (ValueError, error, error.__traceback__)
        )
    lines = HarmlessFormatter("%(message)s").format(record).split("\n")
    assert lines[0] == "failed" and "BACKENDS_READY" not in "".join(lines)
    assert all(line.startswith("    | ") for line in lines[1:])


def test_a_slow_backend_is_down_only_after_a_long_silence() -> None:
    assert judge(None, 1e9) == "up"
    assert judge(CheckFailed("connection refused"), 0.0) == "down"
    assert judge(asyncio.TimeoutError(), SILENCE_SECONDS - 1) == "slow"
    assert judge(asyncio.TimeoutError(), SILENCE_SECONDS + 1) == "down"


def test_backends_are_read_from_one_text() -> None:
    assert parse_backends("http://127.0.0.1:18188/, http://127.0.0.1:18189") == [
        "http://127.0.0.1:18188",
        "http://127.0.0.1:18189",
    ]


@pytest.mark.parametrize(
    "text", ["", " , ", "127.0.0.1:18188", "ftp://x", "http://", "http://a:99999", "http://a,http://a/"]
)
def test_a_backend_that_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse_backends(text)


def test_a_job_goes_to_a_backend_that_answers_and_has_least_to_do() -> None:
    async def choose() -> list[str]:
        backends = Backends(["http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"])
        first, second, third = backends.all
        chosen = [backends.choose().url]
        second.state = third.state = "up"
        second.active = 2
        chosen.append(backends.choose().url)
        third.state, first.state = "down", "slow"
        chosen.append(backends.choose().url)
        return chosen

    ports = [url.rsplit(":", 1)[1] for url in asyncio.run(choose())]
    assert ports == ["1", "3", "2"]


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CheckFailed, match=f"port {port} on 127.0.0.1 is taken"):
            listen("127.0.0.1", port)
    with pytest.raises(CheckFailed, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", port)


def test_settings_for_a_delivery_that_is_not_made_are_named_without_their_values() -> None:
    assert undelivered({"S3_BUCKET_NAME": "", "PATH": "/bin"}) == []
    (line,) = undelivered({"S3_SECRET_ACCESS_KEY": "hunter2", "WEBHOOK_URL": "https://example.org/k3y"})
    assert "S3_SECRET_ACCESS_KEY" in line and "WEBHOOK_URL" in line
    assert "hunter2" not in line and "k3y" not in line


def test_an_answer_is_json_for_every_client() -> None:
    """ComfyUI's history has NaN in it where a node says that it always changes."""
    answer = StrictJSON({"is_changed": [float("nan")], "top": float("inf"), "text": "\ud83d", "n": 1.5})
    text = bytes(answer.body).decode("ascii")
    assert json.loads(text, parse_constant=pytest.fail) == {
        "is_changed": [None],
        "top": None,
        "text": "\ud83d",
        "n": 1.5,
    }


def test_the_documented_request_needs_only_a_workflow() -> None:
    schema = request_body_schema()
    wanted = schema["properties"]["input"]
    assert wanted["required"] == ["workflow_json"]
    assert set(wanted["properties"]) == {"request_id", "workflow_json", "s3", "webhook"}
    assert "$ref" not in str(schema)


def test_a_job_is_answered_before_the_gateway_gives_up() -> None:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    args = parser.parse_args(["wrapper", "serve", "--output-directory", "o", "--state", "s"])
    defaults = Path(__file__).parents[2] / "roles/gateway/defaults/main.yml"
    patience = yaml.safe_load(defaults.read_text())["gateway_read_timeout_seconds"]
    assert 60 < args.job_timeout <= patience - 60
