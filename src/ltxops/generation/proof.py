"""One case of the smoke check, step by step, from the gateway's door to the judged picture."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ltxops.errors import AccessDenied, CheckFailed
from ltxops.generation import media, report, workflows
from ltxops.generation.comfyui import ComfyClient, Event, Execution, Graph, OutputFile
from ltxops.generation.job import generate, node_title
from ltxops.generation.steps import Steps
from ltxops.generation.workflows import Value

#: Seconds that ComfyUI may be away in the middle of the job; long enough for a gateway to reload.
_GRACE_SECONDS = 15.0


@dataclass(frozen=True)
class Settings:
    """What to prove, and where. `values`: workflow parameters; `logs`: name → file, shown on failure."""

    url: str
    out: Path
    token: str | None = None
    deadline_seconds: float = 1800.0
    values: Mapping[str, Value | None] = field(default_factory=dict)
    logs: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A case with its workflow filled in, and the video that it must give."""

    case: str
    values: dict[str, Value | None]
    graph: Graph
    expected: workflows.ExpectedVideo


class Proof:
    """The steps of one case, in their order; each raises an LtxopsError to end it."""

    def __init__(
        self, settings: Settings, plan: Plan, steps: Steps, result: dict[str, Any], video: Path, sheet: Path
    ) -> None:
        self._settings, self._plan, self._steps, self._result = settings, plan, steps, result
        self._video, self._sheet = video, sheet

    async def run(self) -> None:
        self._steps.begin("reach")
        await self._reach()
        url, token = self._settings.url, self._settings.token
        async with ComfyClient(url, token=token, grace_seconds=_GRACE_SECONDS) as client:
            self._steps.begin("engine")
            stats = await client.system_stats()
            self._result["engine"] = {key: stats.get(key) for key in ("system", "devices")}
            self._steps.passed(f"ComfyUI {(stats.get('system') or {}).get('comfyui_version')}")
            self._steps.begin("nodes")
            await self._check_nodes(await client.object_info())
            self._steps.begin("submit")
            job = await self._generate(client)
            self._steps.begin("history")
            file = _result_file(job)
            self._steps.passed(f"{file.subfolder}/{file.filename}".lstrip("/"))
            self._steps.begin("download")
            size = await client.download(file, self._video)
            self._result["files"]["video"] = str(self._video)
            self._steps.passed(f"{size} bytes")
        await asyncio.to_thread(self._judge)

    async def _reach(self) -> None:
        """Find out whether the gateway is up, and whether it turns away whoever has no token."""
        if self._settings.token is None:
            async with ComfyClient(self._settings.url) as client:
                await client.queue()
            self._steps.passed("no token given: not checked whether it is guarded")
            return
        for kind, token in (("without a token", None), ("with a wrong token", secrets.token_hex(16))):
            async with ComfyClient(self._settings.url, token=token) as client:
                try:
                    await client.queue()
                except AccessDenied:
                    continue
            raise CheckFailed(
                f"{client.base_url}/queue answers {kind} although one was given: it is not the gateway, or "
                "the gateway guards nothing"
            )
        self._steps.passed("answers 401 to whoever has no token")

    async def _check_nodes(self, info: Mapping[str, Any]) -> None:
        missing = sorted(workflows.class_types(self._plan.graph) - set(info))
        if missing:
            raise CheckFailed(
                f"ComfyUI does not know the node {', '.join(missing)}; are ComfyUI-LTXVideo and ComfyUI "
                "itself of the pinned versions, and does ComfyUI's log show a failed import?"
            )
        absent = [
            f"models/{model.folder}/{model.name}"
            for model in workflows.required_models(self._plan.case)
            if model.name not in _choices(info, model.class_type, model.input_name)
        ]
        if absent:
            raise CheckFailed(
                f"ComfyUI does not find {', '.join(absent)}; fetch what is missing with `ltxops models sync`"
            )
        self._steps.passed(f"{len(workflows.class_types(self._plan.graph))} node classes are registered")

    async def _generate(self, client: ComfyClient) -> Execution:
        def hear(event: Event) -> None:
            if event.kind == "submitted":
                prompt_id = self._result["prompt_id"] = event.data["prompt_id"]
                self._steps.passed(f"job {prompt_id}, number {event.data['number']}")
                self._steps.begin("follow")
            elif event.kind == "progress" and event.node is not None and event.percentage is not None:
                self._steps.progress(node_title(self._plan.graph, event.node), event.percentage)

        job = await generate(client, self._plan.graph, hear, self._settings.deadline_seconds)
        self._steps.passed(
            f"{len(job.nodes_executed)} nodes ran, {len(job.progress_updates)} progress updates"
        )
        return job

    def _judge(self) -> None:
        self._steps.begin("decode")
        seen = media.probe(self._video)
        self._result["video"] = asdict(seen)
        caption = f"{self._plan.case}: {seen.width} x {seen.height}, {seen.frames} frames, "
        caption += f"{seen.frame_rate:g} frames/s, {seen.seconds:g} s"
        report.write_contact_sheet(self._video, seen.frames, caption, self._sheet)
        self._result["files"]["contact_sheet"] = str(self._sheet)
        self._steps.passed(caption.partition(": ")[2])
        self._steps.begin("judge")
        complaints = media.judge(seen, self._plan.expected)
        self._result["complaints"] = complaints
        if complaints:
            raise CheckFailed("; ".join(complaints))
        self._steps.passed("as expected")


def _result_file(job: Execution) -> OutputFile:
    for file in job.outputs:
        if file.type == "output" and file.filename.endswith(".mp4"):
            return file
    listed = ", ".join(file.filename for file in job.outputs) or "nothing"
    raise CheckFailed(f"the history of job {job.prompt_id} lists no MP4 among its outputs but {listed}")


def _choices(info: Mapping[str, Any], class_type: str, input_name: str) -> Sequence[Any]:
    """Return what an input can be set to, in either of the two forms that /object_info uses."""
    definition = info[class_type]["input"]["required"].get(input_name) or [[]]
    if isinstance(definition[0], list):
        return definition[0]
    options = definition[1].get("options") if len(definition) > 1 else None
    return options or []
