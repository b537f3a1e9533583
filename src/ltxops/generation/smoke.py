"""The proof that a host generates: one short video through the gateway, fetched back, decoded and judged.

Nothing is retried silently: the first step that fails ends a case, and its report says which one and why.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ltxops.errors import BadInput, LtxopsError
from ltxops.generation import report, workflows
from ltxops.generation.comfyui import ComfyClient
from ltxops.generation.proof import Plan, Proof, Settings
from ltxops.generation.steps import Listener, Steps
from ltxops.generation.workflows import Value

#: Sizes of the cases that need a GPU: small enough to be quick, large enough to be a picture.
QUICK: dict[str, dict[str, Value]] = {
    "two-stage": {"width": 768, "height": 512, "length": 25},
    "distilled": {"width": 768, "height": 512, "length": 25},
}

_TAIL_LINES = 15


def run(settings: Settings, cases: Sequence[str], tell: Listener) -> dict[str, Any]:
    """Run the cases one after the other and return the report, which is written to `out` in any case.

    One case: its files lie in `out` and the report is its own. Several: each in a folder of its name, and
    `out/report.json` lists their reports under "cases". A failure is in the report ("ok", "error",
    "exit_code"), not raised. Raises BadInput, before anything is sent, when a case or a value is unknown.
    """
    chosen = list(dict.fromkeys(cases))
    plans = [_plan(settings, case, chosen) for case in chosen]
    ComfyClient(settings.url)  # refuses what is no URL
    started, began = _now(), time.monotonic()
    out = settings.out.resolve()
    results = [_run_case(settings, plan, out if len(plans) == 1 else out / plan.case, tell) for plan in plans]
    if len(results) == 1:
        return results[0]
    failed = [result for result in results if not result["ok"]]
    whole = {
        "ok": not failed,
        "url": settings.url,
        "started_at": started,
        "seconds": round(time.monotonic() - began, 3),
        "error": "; ".join(f"{result['case']}: {result['error']}" for result in failed) or None,
        "exit_code": failed[0]["exit_code"] if failed else 0,
        "cases": results,
        "report": str(out / "report.json"),
    }
    report.write_json(out / "report.json", whole)
    return whole


def _plan(settings: Settings, case: str, cases: Sequence[str]) -> Plan:
    """Fill a case's workflow. A value may be meant for another of the cases, but not for none of them."""
    own = workflows.parameters(case)
    for name, value in settings.values.items():
        if value is not None and not any(name in workflows.parameters(other) for other in cases):
            raise BadInput(f"no {name!r} to set in {', '.join(cases)}; there is {', '.join(own)}")
    # ComfyUI answers a workflow that it has run before from its cache, with the files of that time. A new
    # seed and a new file name make it work again.
    fresh: dict[str, Value] = {"filename_prefix": f"video/smoke-{case}-{secrets.token_hex(4)}"}
    if "seed" in own:
        fresh["seed"] = secrets.randbelow(2**53)
    given = {name: value for name, value in settings.values.items() if value is not None and name in own}
    values: dict[str, Value | None] = {**QUICK.get(case, {}), **fresh, **given}
    return Plan(case, values, workflows.fill(case, values), workflows.expected_video(case, values))


def _run_case(settings: Settings, plan: Plan, folder: Path, tell: Listener) -> dict[str, Any]:
    video, sheet, path = folder / f"{plan.case}.mp4", folder / "contact-sheet.png", folder / "report.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in (video, sheet, path):
            old.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"{folder} cannot be written to: {error.strerror}; choose another --out") from error
    steps = Steps(plan.case, lambda event: tell(report.hide(event, settings.token)))
    began = time.monotonic()
    result: dict[str, Any] = {
        "ok": False,
        "case": plan.case,
        "url": settings.url,
        "engine": None,
        "started_at": _now(),
        "seconds": 0.0,
        "prompt_id": None,
        "parameters": {**workflows.parameters(plan.case), **plan.values},
        "expected": asdict(plan.expected),
        "video": None,
        "complaints": [],
        "error": None,
        "exit_code": 1,
        "logs": {},
        "files": {"video": None, "contact_sheet": None},
    }
    try:
        asyncio.run(Proof(settings, plan, steps, result, video, sheet).run())
        result["ok"], result["exit_code"] = True, 0
    except LtxopsError as error:
        result["exit_code"] = error.exit_code
        _record_failure(result, steps, str(error), settings.logs)
    except BaseException as error:
        _record_failure(result, steps, f"stopped by {type(error).__name__}", settings.logs)
        raise
    finally:
        result["seconds"] = round(time.monotonic() - began, 3)
        result["steps"], result["report"] = steps.records, str(path)
        result = report.hide(result, settings.token)
        report.write_json(path, result)
    return result


def _record_failure(result: dict[str, Any], steps: Steps, sentence: str, logs: Mapping[str, Path]) -> None:
    result["error"] = f"{steps.current}: {sentence}"
    result["logs"] = {name: report.tail(path, _TAIL_LINES) for name, path in logs.items()}
    steps.failed(sentence)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
