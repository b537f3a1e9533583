"""One job brought to its end: inputs fetched, run, files put in place and uploaded, answer made."""

import asyncio
import logging
import time
import uuid
from collections.abc import Collection
from typing import Any

from ltxops.errors import LtxopsError
from ltxops.generation.comfyui import Execution, Graph
from ltxops.wrapper import envelope
from ltxops.wrapper.backends import Backend
from ltxops.wrapper.database import LeftOver
from ltxops.wrapper.deliverer import Deliverer
from ltxops.wrapper.envelope import Outcome
from ltxops.wrapper.execute import Executor
from ltxops.wrapper.failures import BackendLost, JobFailed
from ltxops.wrapper.job import Job
from ltxops.wrapper.outputs import OutputsMissing, collect_outputs, held_paths
from ltxops.wrapper.refusals import Refused
from ltxops.wrapper.requests import names_urls
from ltxops.wrapper.schema import OutputItem
from ltxops.wrapper.settings import JobSettings
from ltxops.wrapper.store import Store

log = logging.getLogger("ltxops.wrapper")

#: The input that makes a node run although its result is in ComfyUI's cache.
RUN_INPUT = "ltxops_run"


class Generator:
    """Brings jobs to their end, many at once."""

    def __init__(
        self,
        store: Store,
        executor: Executor,
        deliverer: Deliverer,
        settings: JobSettings,
    ) -> None:
        self._store = store
        self._executor = executor
        self._deliverer = deliverer
        self._settings = settings

    async def generate(self, job: Job, request: dict[str, Any], left: LeftOver | None = None) -> Outcome:
        """Return the answer of `job`, whatever its end.

        `request` is what is stored of it; `left` says where the job was when an earlier process died. Raises
        Refused when the job was not admitted, CancelledError when it was told to end.
        """
        output: list[OutputItem] = []
        reason: str | None
        try:
            files = await self._produce(job, request, left)
            output, reason = await self._deliverer.upload(job.id, files, job.s3)
            http_status = envelope.NOT_DELIVERED
        except JobFailed as error:
            reason, http_status = str(error), error.http_status
        except Refused:
            raise
        except LtxopsError as error:
            reason, http_status = str(error), envelope.BACKEND_LOST
        response = envelope.comfyui_response(job.execution, job.started_at, reason)
        timings = job.marks.timings(time.monotonic())
        if reason is None:
            return envelope.completed(job.id, response, output, timings)
        return envelope.failed(job.id, reason, http_status, response, timings, output)

    async def _produce(self, job: Job, request: dict[str, Any], left: LeftOver | None) -> list[OutputItem]:
        """Return the files of the job, in their places.

        A graph that ComfyUI has just run is answered from its cache, even when the files have been deleted
        since: the nodes that made them then run once more.
        """
        graph, anew = request["graph"], False
        while True:
            try:
                running = await self._executor.locate(job, left) if left is not None else None
                if running is None and not anew:
                    graph = await self._fetch(job, request)
                execution, backend = await self._executor.run(job, graph, running)
            except BackendLost as lost:
                if not self._settings.retry_lost or job.retried:
                    raise
                log.warning("job %s runs once more: %s", job.id, lost)
                await self._store.call(self._store.database.assign, job.id, "", None, retried=True)
                job.retried, job.execution, left = True, None, None
                job.become("queued")
                continue
            if job.ending == "stopped":  # the next process does the rest
                raise asyncio.CancelledError
            job.become("processing")
            try:
                return await self._collect(job, backend, execution)
            except OutputsMissing as missing:
                # A node that another one made while it ran has no place in the graph.
                if anew or not missing.nodes <= graph.keys():
                    raise
                graph, anew, left = run_anew(graph, missing.nodes), True, None
                job.execution = None
                job.become("queued")
                log.info("job %s: nodes %s run once more", job.id, ", ".join(sorted(missing.nodes)))

    async def _fetch(self, job: Job, request: dict[str, Any]) -> Graph:
        """Return the graph with what its URLs lead to, fetched. Such a job is checked only afterwards."""
        graph: Graph = request["graph"]
        if not names_urls(graph):
            return graph
        job.admit()
        try:
            fetched = await self._deliverer.fetch_inputs(job.id, graph, self._settings.input_directory)
        except LtxopsError as error:
            raise JobFailed(str(error), envelope.GENERATION_FAILED) from error
        if fetched != graph:
            changed = {**request, "graph": fetched}
            await self._store.call(self._store.database.change_request, job.id, changed)
        return fetched

    async def drop_inputs(self, job: Job) -> None:
        """Remove what was fetched for a job that has ended."""
        await self._deliverer.drop_inputs(job.id, self._settings.input_directory)

    async def _collect(self, job: Job, backend: Backend, execution: Execution) -> list[OutputItem]:
        """Put the files into the folder of the job, and have the cleaners leave them alone."""
        items = await collect_outputs(
            backend.client,
            execution.outputs,
            self._settings.output_directory,
            job.id,
            subfolder=backend.output_subfolder,
        )
        paths = held_paths(items, self._settings.output_directory)
        self._store.note(self._store.database.hold, job.id, paths)
        return items


def run_anew(graph: Graph, nodes: Collection[str]) -> Graph:
    """Return a copy of `graph` in which `nodes`, and what takes from them, are not answered from the cache.

    ComfyUI tells a node from a cached one by all inputs it is given, while its validation and the node itself
    only see those that the node declares (ComfyUI comfy_execution/caching.py, execution.py).
    """
    return {
        node_id: {**node, "inputs": {**node.get("inputs", {}), RUN_INPUT: uuid.uuid4().hex}}
        if node_id in nodes
        else node
        for node_id, node in graph.items()
    }
