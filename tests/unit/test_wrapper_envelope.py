"""The answer about a job: its parts, its times, its status."""

from typing import Any

import pytest

from ltxops.generation.comfyui import Execution, PromptRejected
from ltxops.wrapper.envelope import (
    Marks,
    comfyui_response,
    completed,
    failed,
    generation_seconds,
    unfinished,
)
from ltxops.wrapper.refusals import Refused, rejected_by_comfyui
from ltxops.wrapper.schema import OutputItem

HISTORY = {
    "status": {
        "messages": [
            ["execution_start", {"prompt_id": "p", "timestamp": 10_000}],
            ["execution_cached", {"nodes": [], "timestamp": 10_001}],
            ["execution_success", {"prompt_id": "p", "timestamp": 12_500}],
        ]
    }
}


def test_times_are_milliseconds_and_add_up() -> None:
    marks = Marks(arrived=100.0, submitted=100.2, started=103.2, ended=108.2)
    timings = marks.timings(now=108.3)
    assert timings.model_dump() == pytest.approx(
        {"preprocess": 200, "queued": 3000, "generation": 5000, "postprocess": 100, "total": 8300}, abs=0.2
    )


def test_what_comfyui_measured_counts_more_than_what_was_heard() -> None:
    marks = Marks(arrived=0.0, submitted=0.0, started=None, ended=4.0, generation_seconds=2.5)
    timings = marks.timings(now=4.0)
    assert (timings.generation, timings.queued) == (2500, 1500)
    assert Marks(0.0, 0.0, None, 1.0, generation_seconds=9.0).timings(1.0).generation == 1000


def test_a_job_that_was_never_submitted_spent_its_time_before() -> None:
    timings = Marks(arrived=1.0).timings(now=3.0)
    assert (timings.preprocess, timings.queued, timings.generation, timings.postprocess) == (2000, 0, 0, 0)


def test_generation_time_is_read_from_the_history() -> None:
    assert generation_seconds(HISTORY) == 2.5
    failed_history = {
        "status": {
            "messages": [
                ["execution_start", {"timestamp": 1_000}],
                ["execution_error", {"timestamp": 1_750}],
            ]
        }
    }
    assert generation_seconds(failed_history) == 0.75
    without: list[dict[str, Any]] = [{}, {"status": None}, {"status": {"messages": []}}]
    for unknown in without:
        assert generation_seconds(unknown) is None


def test_the_envelope_has_the_documented_fields() -> None:
    execution = Execution("p", 3, history=HISTORY, nodes_executed=["1", "2"])
    execution.progress_updates = [{"time": 1002.5, "value": 1, "max": 4, "percentage": 25.0}]
    item = OutputItem(
        filename="a.mp4",
        local_path="/o/r/a.mp4",
        type="output",
        subfolder="video",
        node_id="2",
        output_type="images",
    )
    response = comfyui_response(execution, 1000.0, None)
    outcome = completed("r", response, [item], Marks(0.0).timings(1.0))
    assert outcome.http_status == 200
    assert list(outcome.body) == ["id", "message", "status", "comfyui_response", "output", "timings"]
    assert (outcome.body["id"], outcome.body["status"]) == ("r", "completed")
    assert outcome.body["output"][0]["local_path"] == "/o/r/a.mp4"
    assert "url" not in outcome.body["output"][0], "there is a url only for what was uploaded"
    assert outcome.body["comfyui_response"] == {
        "p": HISTORY,
        "execution_details": {
            "prompt_id": "p",
            "nodes_executed": ["1", "2"],
            "progress_updates": [{"time": 2.5, "value": 1, "max": 4, "percentage": 25.0}],
            "completed": True,
            "error": None,
        },
    }


def test_a_workflow_that_ran_in_part_says_which_nodes_did_not() -> None:
    execution = Execution("p", 3, node_errors={"12": {"errors": []}}, history=HISTORY)
    outcome = completed("r", comfyui_response(execution, 0.0, None), [], Marks(0.0).timings(1.0))
    assert "12" in outcome.body["message"]
    assert outcome.body["comfyui_response"]["execution_details"]["node_errors"] == {"12": {"errors": []}}


def test_a_failure_carries_its_reason_and_an_unfinished_job_its_state() -> None:
    outcome = failed("r", "node 4 (KSampler) failed: OutOfMemoryError", 422)
    assert (outcome.http_status, outcome.body["status"], outcome.body["output"]) == (422, "failed", [])
    assert outcome.body["message"] == "node 4 (KSampler) failed: OutOfMemoryError"
    assert unfinished("r", "generating")["status"] == "generating"


def test_comfyuis_refusal_passes_with_its_own_errors() -> None:
    answer = {
        "error": {"type": "prompt_no_outputs", "message": "Prompt has no outputs", "details": ""},
        "node_errors": {"4": {"errors": [], "class_type": "X"}},
    }
    refused = rejected_by_comfyui(PromptRejected("refused: why", 400, answer))
    assert refused.status == 400
    body = refused.body("r")
    assert (body["error"], body["node_errors"]) == (answer["error"], answer["node_errors"])
    assert (body["id"], body["status"], body["message"]) == ("r", "failed", "refused: why")
    odd = rejected_by_comfyui(PromptRejected("refused", 413, {"error": "too large"})).body()
    assert odd["error"]["message"] == "refused"


def test_only_what_waiting_helps_has_a_retry_after() -> None:
    assert "Retry-After" in Refused(503, "queue_full", "full").headers()
    assert Refused(400, "wrong", "wrong").headers() == {}
