"""What a benchmark runs: a static workflow whose seed is a placeholder, filled anew for each run."""

import hashlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltxops.errors import BadInput
from ltxops.generation import workflows
from ltxops.generation.comfyui import Graph
from ltxops.generation.workflows import RANDOM_INT, Value

#: The clip that is measured: two seconds, because PyWorker runs it nine times before a worker is ready.
CLIP: dict[str, Value | None] = {
    "width": 768,
    "height": 512,
    "length": 49,
    "filename_prefix": "video/benchmark",
}

#: Largest seed: what numpy's legacy seed and signed 32-bit integers take.
MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class Workload:
    """What is measured. `sha256` is that of the workflow with its placeholders, as canonical JSON."""

    name: str
    graph: Graph
    sha256: str


def load(workflow: str) -> Workload:
    """Return the workload for the name of a shipped workflow or for a file in API format.

    Raises BadInput when it is neither, or when nothing in it changes from run to run.
    """
    named = workflow in workflows.names()
    graph = workflows.fill_unseeded(workflow, CLIP) if named else _read_graph(Path(workflow))
    canonical = json.dumps(graph, sort_keys=True, separators=(",", ":"))
    name = workflow if named else Path(workflow).name
    return Workload(name, graph, hashlib.sha256(canonical.encode()).hexdigest())


def random_seed() -> int:
    """Return a seed for one run."""
    return secrets.randbelow(MAX_SEED + 1)


def with_seed(value: Any, seed: int) -> Any:
    """Return a copy of a workflow with `seed` for each value that is exactly `__RANDOM_INT__`."""
    if isinstance(value, dict):
        return {key: with_seed(item, seed) for key, item in value.items()}
    if isinstance(value, list):
        return [with_seed(item, seed) for item in value]
    return seed if value == RANDOM_INT else value


def _read_graph(path: Path) -> Graph:
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(workflows.names())
        raise BadInput(
            f"{str(path)!r} is neither a workflow of ours ({known}) nor a readable file: {error.strerror}"
        ) from error
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}") from error
    if not isinstance(graph, dict) or not graph or not all(_is_node(node) for node in graph.values()):
        raise BadInput(f"{path} is no workflow in API format; export it from ComfyUI with 'Export (API)'")
    if with_seed(graph, 0) == graph:
        raise BadInput(
            f'{path} has no "{RANDOM_INT}": put it where the seed is, or ComfyUI answers from its cache'
        )
    return graph


def _is_node(node: object) -> bool:
    return (
        isinstance(node, dict)
        and isinstance(node.get("class_type"), str)
        and isinstance(node.get("inputs"), dict)
    )
