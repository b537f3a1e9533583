"""What a benchmark runs, what it makes of its numbers, and how its history survives."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from ltxops.errors import BadInput
from ltxops.generation import benchmark_history as history
from ltxops.generation.benchmark_workload import load, random_seed, with_seed
from ltxops.generation.workflows import RANDOM_INT
from ltxops.wrapper.requests import fill_random_ints

GPU = "NVIDIA H200"


def entry(seconds: float, gpu: str = GPU, workflow: str = "w") -> dict[str, Any]:
    return {"gpu": gpu, "workflow": workflow, "seconds": seconds, "score": history.score(seconds)}


@pytest.mark.parametrize(("seconds", "score"), [(100, 1.0), (50, 2.0), (200, 0.5)])
def test_the_score_is_that_of_the_platform(seconds: float, score: float) -> None:
    assert history.score(seconds) == score


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync", "NVIDIA GeForce RTX 4090"),
        ("cuda:1 NVIDIA H200 : native", "NVIDIA H200"),
        ("cuda:0 NVIDIA H200", "NVIDIA H200"),
        ("cpu", "cpu"),
        ("embedded engine (no GPU)", "embedded engine (no GPU)"),
        ("", "unknown"),
    ],
)
def test_the_gpu_model_has_neither_number_nor_allocator(name: str, model: str) -> None:
    assert history.gpu_model([{"name": name}]) == model
    assert history.gpu_model([]) == "unknown"


def test_only_the_same_workflow_on_the_same_model_is_compared() -> None:
    entries = [entry(10), entry(12), entry(14), entry(99, gpu="NVIDIA L4"), entry(99, workflow="other")]
    comparison = history.compare(entries, GPU, "w", 15.0)
    assert comparison == history.Comparison(3, 12.0, 0.25)
    assert history.compare(entries, "NVIDIA B200", "w", 15.0) is None


@pytest.mark.parametrize(("seconds", "word"), [(12.1, "21% more"), (7.9, "21% less")])
def test_a_deviation_beyond_a_fifth_is_one_sentence_with_both_numbers(seconds: float, word: str) -> None:
    comparison = history.compare([entry(10)] * 4, GPU, "w", seconds)
    (sentence,) = history.warnings(GPU, seconds, 0.0, comparison)
    assert word in sentence
    assert "10 s of 4 earlier runs on NVIDIA H200" in sentence
    for cause in ("heat", "power limit", "configuration"):
        assert cause in sentence


@pytest.mark.parametrize("seconds", [8.0, 10.0, 12.0])
def test_a_fifth_is_still_as_expected(seconds: float) -> None:
    comparison = history.compare([entry(10)], GPU, "w", seconds)
    assert history.warnings(GPU, seconds, 0.20, comparison) == []


def test_runs_far_apart_are_told_of_without_any_history() -> None:
    (sentence,) = history.warnings(GPU, 10.0, 0.31, None)
    assert "31%" in sentence


def test_the_history_passes_over_what_is_no_run(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert history.read(path) == ([], 0)
    history.append(path, [entry(10)])
    with path.open("a") as file:
        file.write('[]\n{"gpu": "x"}\n{"gpu": "x", "workflow": "w", "seconds": NaN}\n\n{"gpu": "NVID')
    # The line that was cut off does not swallow the next one.
    history.append(path, [entry(11), entry(12)])
    assert history.read(path) == ([entry(10), entry(11), entry(12)], 4)


def append_many(path: Path, number: int) -> None:
    for index in range(50):
        history.append(path, [entry(number * 1000 + index + 1)] * 2)


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=append_many, args=(path, number)) for number in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    entries, passed_over = history.read(path)
    assert (len(entries), passed_over) == (200, 0)


def test_both_workflows_with_a_seed_can_be_measured_and_stay_the_same() -> None:
    for name in ("two-stage", "distilled"):
        workload = load(name)
        assert workload == load(name)
        assert json.dumps(workload.graph).count(RANDOM_INT) == 1
        first, second = with_seed(workload.graph, 1), with_seed(workload.graph, 2)
        assert first != second
        assert RANDOM_INT not in json.dumps(first)
        # The wrapper, which fills it in for PyWorker, finds the same place.
        assert with_seed(fill_random_ints(workload.graph), 0) != workload.graph
    assert load("two-stage").sha256 != load("distilled").sha256


def test_a_workflow_without_a_seed_cannot_be_measured() -> None:
    with pytest.raises(BadInput, match=r"check has no seed.* two-stage, distilled"):
        load("check")


def test_a_seed_is_one_that_every_node_takes() -> None:
    assert all(0 <= random_seed() < 2**31 for _ in range(100))


def test_a_file_of_ones_own_is_the_same_workload_however_it_is_formatted(tmp_path: Path) -> None:
    graph = {"1": {"class_type": "RandomNoise", "inputs": {"noise_seed": RANDOM_INT}}}
    (tmp_path / "a.json").write_text(json.dumps(graph))
    (tmp_path / "b.json").write_text(json.dumps(graph, indent=4))
    assert load(str(tmp_path / "a.json")).sha256 == load(str(tmp_path / "b.json")).sha256
    assert load(str(tmp_path / "a.json")).name == "a.json"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ("[]", "API format"),
        ("{}", "API format"),
        ('{"nodes": [], "links": []}', "API format"),
        ('{"1": {"class_type": "RandomNoise", "inputs": {"noise_seed": 7}}}', RANDOM_INT),
        (
            '{"1": {"class_type": "A", "inputs": {"text": "not __RANDOM_INT__ alone"}}}',
            "put it where the seed",
        ),
    ],
)
def test_a_file_that_cannot_be_measured_says_why(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=reason):
        load(str(path))


def test_a_name_that_is_neither_says_what_there_is() -> None:
    with pytest.raises(BadInput, match=r"'twostage' is neither a workflow of ours \(check, two-stage"):
        load("twostage")
