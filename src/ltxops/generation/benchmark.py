"""How fast a host generates: one static workflow, a new seed a run, held against the host's own history.

The workflow is the one PyWorker measures with, so that both scores mean the same.
"""

import asyncio
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ltxops.errors import BadInput, CheckFailed, LtxopsError
from ltxops.generation import benchmark_history as history
from ltxops.generation import report
from ltxops.generation.benchmark_workload import Workload, random_seed, with_seed
from ltxops.generation.comfyui import ComfyClient, Event, Execution, Graph
from ltxops.generation.job import generate, node_title
from ltxops.generation.steps import Listener, Steps
from ltxops.generation.workflows import RANDOM_INT

_GRACE_SECONDS = 15.0


@dataclass(frozen=True)
class Settings:
    """What to measure, where, how often. The warm-up runs load the models and do not count."""

    url: str
    out: Path
    workload: Workload
    token: str | None = None
    runs: int = 3
    warmup: int = 1
    deadline_seconds: float = 1800.0


def run(settings: Settings, tell: Listener) -> dict[str, Any]:
    """Measure, and return the report, which is written to `out` in any case.

    A failure is in the report ("ok", "error", "exit_code"), not raised; then the history is left as it was.
    Raises BadInput, before anything is sent, when a setting is wrong.
    """
    if settings.runs < 1 or settings.warmup < 0:
        raise BadInput(f"{settings.runs} runs after {settings.warmup}: give at least 1 run and 0 to warm up")
    if not settings.deadline_seconds > 0:
        raise BadInput(f"a deadline of {settings.deadline_seconds:g} s: give more than 0 seconds")
    ComfyClient(settings.url)  # refuses what is no URL
    path, log = settings.out.resolve() / "report.json", settings.out.resolve() / "history.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(
            f"{path.parent} cannot be written to: {error.strerror}; choose another --out"
        ) from error
    result: dict[str, Any] = {
        "ok": False,
        "exit_code": 1,
        "error": None,
        "url": settings.url,
        "started_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "engine": None,
        "gpu": None,
        "workflow": {"name": settings.workload.name, "sha256": settings.workload.sha256},
        "warmup_seconds": [],
        "runs": [],
        "seconds": None,
        "spread": None,
        "score": None,
        "compared": None,
        "warnings": [],
        "history": str(log),
        "report": str(path),
    }
    steps = Steps("benchmark", lambda event: tell(report.hide(event, settings.token)))
    try:
        asyncio.run(_measure(settings, steps, result))
        steps.begin("history")
        _conclude(result, log)
        steps.passed()
        result["ok"], result["exit_code"] = True, 0
    except LtxopsError as error:
        result["exit_code"], result["error"] = error.exit_code, f"{steps.current}: {error}"
        steps.failed(str(error))
    except BaseException as error:
        result["error"] = f"{steps.current}: stopped by {type(error).__name__}"
        raise
    finally:
        result = report.hide(result, settings.token)
        report.write_json(path, result)
    return result


async def _measure(settings: Settings, steps: Steps, result: dict[str, Any]) -> None:
    async with ComfyClient(settings.url, token=settings.token, grace_seconds=_GRACE_SECONDS) as client:
        steps.begin("engine")
        stats = await client.system_stats()
        result["engine"] = {key: stats.get(key) for key in ("system", "devices")}
        result["gpu"] = history.gpu_model(stats.get("devices") or [])
        steps.passed(f"ComfyUI {(stats.get('system') or {}).get('comfyui_version')} on {result['gpu']}")
        for number in range(1, settings.warmup + 1):
            steps.begin(f"warm-up {number} of {settings.warmup}")
            measured = await _one(client, settings, steps)
            result["warmup_seconds"].append(measured["seconds"])
            steps.passed()
        for number in range(1, settings.runs + 1):
            steps.begin(f"run {number} of {settings.runs}")
            measured = await _one(client, settings, steps)
            result["runs"].append({**measured, "score": history.score(measured["seconds"])})
            steps.passed(f"score {result['runs'][-1]['score']:g}")


async def _one(client: ComfyClient, settings: Settings, steps: Steps) -> dict[str, Any]:
    queue = await client.queue()
    waiting = sum(len(queue.get(key) or []) for key in ("queue_running", "queue_pending"))
    if waiting:
        raise CheckFailed(
            f"{client.base_url} has jobs of others in its queue ({waiting}), and a run behind them would "
            "measure them too; wait until it is idle"
        )
    seed = random_seed()
    graph: Graph = with_seed(settings.workload.graph, seed)

    def hear(event: Event) -> None:
        if event.kind == "progress" and event.node is not None and event.percentage is not None:
            steps.progress(node_title(graph, event.node), event.percentage)

    began = time.monotonic()
    job = await generate(client, graph, hear, settings.deadline_seconds)
    seconds = round(max(time.monotonic() - began, 0.001), 3)
    _refuse_what_was_not_rendered(job)
    return {"seed": seed, "seconds": seconds, "prompt_id": job.prompt_id}


def _refuse_what_was_not_rendered(job: Execution) -> None:
    """A score is false when the job made nothing, did part of the work, or was answered from the cache."""
    if job.node_errors:
        raise CheckFailed(
            f"ComfyUI ran job {job.prompt_id} only in part: nodes {', '.join(job.node_errors)} are wrong"
        )
    if not job.outputs:
        raise CheckFailed(f"job {job.prompt_id} made no file; measure a workflow that saves one")
    if all(file.node_id in job.nodes_cached for file in job.outputs):
        raise CheckFailed(
            f"ComfyUI answered job {job.prompt_id} from its cache; put {RANDOM_INT} where its seed is"
        )


def _conclude(result: dict[str, Any], log: Path) -> None:
    """Sum up the runs, hold them against the history, and add them to it."""
    took = [entry["seconds"] for entry in result["runs"]]
    median = round(statistics.median(took), 3)
    result["seconds"] = {"median": median, "min": min(took), "max": max(took)}
    result["spread"] = round((max(took) - min(took)) / median, 4)
    result["score"] = history.score(median)
    earlier, passed_over = history.read(log)
    comparison = history.compare(earlier, result["gpu"], result["workflow"]["sha256"], median)
    result["compared"] = asdict(comparison) if comparison else None
    result["warnings"] = history.warnings(result["gpu"], median, result["spread"], comparison)
    if passed_over:
        result["warnings"].append(f"{passed_over} lines of {log} are no runs and were passed over")
    system = result["engine"]["system"] or {}
    history.append(
        log, [_entry(result, entry, f"ComfyUI {system.get('comfyui_version')}") for entry in result["runs"]]
    )


def _entry(result: Mapping[str, Any], run: Mapping[str, Any], engine: str) -> dict[str, Any]:
    return {
        "time": result["started_at"],
        "engine": engine,
        "gpu": result["gpu"],
        "workflow": result["workflow"]["sha256"],
        **{key: run[key] for key in ("seed", "seconds", "score")},
    }
