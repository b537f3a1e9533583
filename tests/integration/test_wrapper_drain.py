"""A drained wrapper: new jobs are refused, the running one ends, those that wait go on afterwards."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.wrapper_host import LONG, LTXOPS, Host, call, graph


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    host.start_both()
    yield host
    host.close()


def ltxops(verb: str, host: Host, *options: str) -> Any:
    command = [*LTXOPS, "wrapper", verb, "--state", str(host.state), "--json", *options]
    return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=120).stdout)


def test_running_jobs_end_waiting_ones_wait_and_new_ones_are_told_to_come_back(host: Host) -> None:
    assert host.submit(LONG, request_id="running")[0] == 202
    host.running_prompt()
    assert host.submit(graph(2), request_id="waiting")[0] == 202
    assert ltxops("drain", host, "--url", host.url, "--timeout", "0") == {"ok": True, "left": 1}
    status, headers, body = host.generate(graph(3), request_id="new")
    assert (status, body["error"]["type"]) == (503, "draining")
    assert int(headers["retry-after"]) > 0
    assert call(f"{host.url}/queue-info")[2]["draining"] is True
    assert host.submit(graph(2), request_id="waiting")[0] == 202, "asking again is no new job"
    call(f"{host.engine_url}/interrupt", {})
    assert ltxops("drain", host, "--url", host.url, "--timeout", "100") == {"ok": True, "left": 0}
    assert "interrupted" in host.result("running")[1]["message"]
    assert host.result("waiting")[1]["status"] == "queued"
    assert ltxops("resume", host) == {"ok": True, "drained": True}
    assert host.ended("waiting")["status"] == "completed"
    assert host.generate(graph(3), request_id="new")[0] == 200


def test_a_wrapper_that_does_not_answer_is_named(host: Host) -> None:
    host.close()
    result = ltxops("drain", host, "--url", host.url)
    assert (result["exit_code"], host.url in result["error"]) == (1, True)
