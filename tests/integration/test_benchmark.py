"""`ltxops benchmark` against the stand-in ComfyUI as a process of its own."""

import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.smoke_host import TOKEN, Front, engine, serving, write_weights
from tests.support import wait_for

from ltxops.cli.main import main
from ltxops.generation import benchmark_workload

GPU = "embedded engine (no GPU)"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_weights(folder, "two-stage", "distilled")
    return folder


@pytest.fixture(scope="module")
def backend(base: Path) -> Iterator[str]:
    with engine(base) as (url, _):
        yield url


@pytest.fixture
def small(tmp_path: Path) -> str:
    """The two-stage workflow as a file, smaller than the one that is measured on a GPU."""
    graph = benchmark_workload.load("two-stage").graph
    graph["40"]["inputs"].update(width=192, height=128)
    graph["20"]["inputs"]["value"] = 9
    graph["52"]["inputs"]["steps"] = 2
    path = tmp_path / "small.json"
    path.write_text(json.dumps(graph))
    return str(path)


def benchmark(url: str, out: Path, *more: str) -> int:
    return main(["benchmark", "--url", url, "--out", str(out), *more])


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def history_of(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url + "/history", timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def test_the_shipped_workflow_is_measured_with_a_new_seed_a_run(
    backend: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    token_file, out, front = tmp_path / "token", tmp_path / "out", Front(backend)
    token_file.write_text(TOKEN)
    with serving(front) as url:
        assert benchmark(url, out, "--token-file", str(token_file), "--runs", "2", "--json") == 0
    shown = capfd.readouterr()
    report = json.loads(shown.out)
    assert report == json.loads((out / "report.json").read_text())
    assert report["ok"] is True
    assert report["gpu"] == GPU
    assert report["workflow"] == {
        "name": "two-stage",
        "sha256": benchmark_workload.load("two-stage").sha256,
    }
    assert len(report["warmup_seconds"]) == 1
    runs = report["runs"]
    assert len({run["seed"] for run in runs}) == 2
    assert all(run["score"] == pytest.approx(100 / run["seconds"], rel=1e-3) for run in runs)
    assert report["seconds"]["min"] <= report["seconds"]["median"] <= report["seconds"]["max"]
    assert report["score"] == pytest.approx(100 / report["seconds"]["median"], rel=1e-3)
    # What ComfyUI rendered is what the report says.
    done = history_of(backend)
    for run in runs:
        graph = done[run["prompt_id"]]["prompt"][2]
        assert graph["50"]["inputs"]["noise_seed"] == run["seed"]
        assert graph["20"]["inputs"]["value"] == 49
    assert [set(line) for line in lines(out)] == [
        {"time", "engine", "gpu", "workflow", "seed", "seconds", "score"}
    ] * 2
    assert [line["seconds"] for line in lines(out)] == [run["seconds"] for run in runs]
    assert lines(out)[0]["engine"].startswith("ComfyUI ")
    assert "run 2 of 2" in shown.err
    assert TOKEN not in shown.out + shown.err + (out / "report.json").read_text()


def test_a_host_grown_slow_is_told_of_and_remembered(
    base: Path, tmp_path: Path, small: str, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    more = ["--workflow", small, "--runs", "2", "--warmup", "0"]
    with engine(base, 0.1) as (url, _):
        assert benchmark(url, out, *more) == 0
        quick = [json.dumps({**line, "seconds": 0.05}) + "\n" for line in lines(out)]
        (out / "history.jsonl").write_text("".join(quick))
        assert benchmark(url, out, *more) == 0
    shown = capfd.readouterr()
    report = json.loads((out / "report.json").read_text())
    assert (report["compared"]["runs"], report["compared"]["median_seconds"]) == (2, 0.05)
    assert report["compared"]["deviation"] > 1
    assert [warning for warning in report["warnings"] if "heat" in warning]
    assert "ltxops: warning: a run takes" in shown.err
    assert f"score {report['score']:g}: median" in shown.out
    assert "against 2 earlier runs" in shown.out
    assert len(lines(out)) == 4


def test_a_failed_run_leaves_the_history_as_it_was(
    base: Path, tmp_path: Path, small: str, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with engine(base) as (url, _):
        assert benchmark(url, out, "--workflow", small, "--runs", "1") == 0
    before = (out / "history.jsonl").read_bytes()
    capfd.readouterr()
    over = threading.Event()

    def interrupt_all_but_the_first(url: str) -> None:
        request = urllib.request.Request(url + "/interrupt", b"{}", {"Content-Type": "application/json"})
        while not over.wait(0.05):
            if history_of(url):
                urllib.request.urlopen(request, timeout=60).close()

    with engine(base, 0.2) as (url, _):
        interrupter = threading.Thread(target=interrupt_all_but_the_first, args=(url,))
        interrupter.start()
        try:
            assert benchmark(url, out, "--workflow", small, "--warmup", "0", "--runs", "50", "--json") == 1
        finally:
            over.set()
            interrupter.join()
    shown = capfd.readouterr()
    report = json.loads(shown.out)
    assert (report["ok"], report["exit_code"], report["score"]) == (False, 1, None)
    assert report["error"].startswith("run ")
    assert "was interrupted" in report["error"]
    assert report["runs"]
    assert f"ltxops: benchmark failed at {report['error']}" in shown.err
    assert (out / "history.jsonl").read_bytes() == before


def test_a_missing_weight_is_named(tmp_path: Path, small: str, capfd: pytest.CaptureFixture[str]) -> None:
    bare = tmp_path / "bare"
    write_weights(bare, "two-stage")
    (bare / "models/checkpoints/ltx-2-19b-dev-fp8.safetensors").unlink()
    with engine(bare) as (url, _):
        assert benchmark(url, tmp_path / "out", "--workflow", small) == 1
    assert "ltx-2-19b-dev-fp8.safetensors" in capfd.readouterr().err
    assert not (tmp_path / "out/history.jsonl").exists()


def test_an_answer_from_the_cache_gives_no_score(
    backend: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # The placeholder is in a branch of its own, so the file that counts never changes.
    graph = json.loads((Path(__file__).parents[2] / "workflows/check.json").read_text())
    graph["10"]["inputs"].update(width=64, height=64, batch_size=1)
    graph["90"] = {"class_type": "RandomNoise", "inputs": {"noise_seed": "__RANDOM_INT__"}}
    path = tmp_path / "cached.json"
    path.write_text(json.dumps(graph))
    assert benchmark(backend, tmp_path / "out", "--workflow", str(path), "--runs", "1") == 1
    assert "from its cache" in capfd.readouterr().err
    assert not (tmp_path / "out/history.jsonl").exists()


def test_a_busy_host_is_not_measured(
    base: Path, tmp_path: Path, small: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with engine(base, 60) as (url, _):
        body = json.dumps({"prompt": benchmark_workload.with_seed(json.loads(Path(small).read_text()), 1)})
        request = urllib.request.Request(url + "/prompt", body.encode(), {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=60).close()
        assert benchmark(url, tmp_path / "out", "--workflow", small) == 1
    assert "has jobs of others in its queue (1)" in capfd.readouterr().err


def test_a_run_that_outlives_its_deadline_is_taken_off_the_queue(
    base: Path, tmp_path: Path, small: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def is_idle(url: str) -> bool:
        with urllib.request.urlopen(url + "/queue", timeout=60) as answer:
            return not any(json.load(answer).values())

    with engine(base, 60) as (url, _):
        more = ["--workflow", small, "--deadline", "0.4", "--warmup", "0"]
        assert benchmark(url, tmp_path / "out", *more) == 1
        wait_for(lambda: is_idle(url))
    assert "did not end within 0.4 s" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--runs", "0"], "at least 1 run"),
        (["--warmup", "-1"], "0 to warm up"),
        (["--deadline", "0"], "more than 0 seconds"),
        (["--workflow", "nothing.json"], "neither a workflow of ours"),
        (["--workflow", "check"], "has no seed"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_sent(
    tmp_path: Path, options: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert benchmark("http://127.0.0.1:9", tmp_path / "out", *options) == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_a_host_there_is_nothing_to_measure(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--url", "http://127.0.0.1:9"]) == 2
    assert "--url and --out are needed" in capfd.readouterr().err


def test_a_host_that_is_down_is_exit_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert benchmark("http://127.0.0.1:9", tmp_path / "out") == 1
    assert "cannot be reached" in capfd.readouterr().err


@pytest.mark.parametrize("workflow", ["two-stage", "distilled"])
def test_the_printed_workflow_is_the_measured_one(workflow: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--print-workflow", "--workflow", workflow]) == 0
    assert json.loads(capfd.readouterr().out) == benchmark_workload.load(workflow).graph
