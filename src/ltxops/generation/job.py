"""One job run to its success, and taken off ComfyUI again when nobody waits for it any longer."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from ltxops.errors import CheckFailed, LtxopsError
from ltxops.generation.comfyui import ComfyClient, DeadlineExceeded, Event, Execution, Graph


async def generate(
    client: ComfyClient, graph: Graph, on_event: Callable[[Event], None], deadline_seconds: float
) -> Execution:
    """Run a workflow to its end and return the job, which has succeeded.

    A job that outlives its deadline, or whose caller is cancelled, is cancelled too. Raises what
    `ComfyClient.run` raises, and CheckFailed with ComfyUI's reason when the job fails.
    """
    prompt_id = ""

    def hear(event: Event) -> None:
        nonlocal prompt_id
        if event.kind == "submitted":
            prompt_id = event.data["prompt_id"]
        on_event(event)

    try:
        job = await client.run(graph, on_event=hear, deadline_seconds=deadline_seconds)
    except (DeadlineExceeded, asyncio.CancelledError):
        if prompt_id:
            with suppress(LtxopsError):  # the failure to tell of is the first one
                await client.cancel(prompt_id)
        raise
    if job.failure:
        raise CheckFailed(job.failure)
    return job


def node_title(graph: Graph, node: str) -> str:
    """Return what a node of a workflow is called, or its id."""
    return str(graph.get(node, {}).get("_meta", {}).get("title", node))
