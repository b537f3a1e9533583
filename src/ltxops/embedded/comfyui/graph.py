"""The shape of a submitted graph: links, the order nodes run in, and what makes two nodes the same.

The order is ComfyUI's: depth first from the outputs, and of the nodes that are ready, those that bring an
output nearest go first. A client's progress bar therefore moves as it does on a real host.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

#: A graph in API format: node id → {"class_type", "inputs"}.
Graph = Mapping[str, Mapping[str, Any]]


def is_link(value: object) -> bool:
    """True for `[node id, output number]`, the way an input names another node's output."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], (int, float))
    )


def sources(graph: Graph, node_id: str) -> list[str]:
    """Return the nodes that feed `node_id`, in the order of its inputs."""
    return [value[0] for value in graph[node_id]["inputs"].values() if is_link(value)]


def run_order(
    graph: Graph, outputs: Sequence[str], is_output: Callable[[str], bool], cached: Collection[str]
) -> Iterator[str]:
    """Yield the nodes to run for `outputs`, in order. What is in `cached` is not gone behind, outputs come
    anyway.

    The graph is one that validation accepted: links lead to nodes, and there is no cycle.
    """
    pending = _reachable(graph, outputs, cached)
    waits_for = {node: {s for s in sources(graph, node) if s in pending} for node in pending}
    feeds: dict[str, list[str]] = {node: [] for node in pending}
    for node in pending:
        for source in waits_for[node]:
            feeds[source].append(node)
    while pending:
        ready = [node for node in pending if not waits_for[node]]
        node = _pick(ready, feeds, is_output)
        yield node
        pending.remove(node)
        for follower in feeds.pop(node):
            waits_for[follower].discard(node)


def _reachable(graph: Graph, outputs: Sequence[str], cached: Collection[str]) -> list[str]:
    """Return the nodes that `outputs` need, depth first, the last input first."""
    found: dict[str, None] = {}
    for output in outputs:
        stack = [output]
        while stack:
            node = stack.pop()
            if node not in found:
                found[node] = None
                stack.extend(source for source in sources(graph, node) if source not in cached)
    return list(found)


def _pick(ready: list[str], feeds: Mapping[str, list[str]], is_output: Callable[[str], bool]) -> str:
    """Return the node to run next: an output, else what feeds one, else what feeds that, else the first."""
    for node in ready:
        if is_output(node):
            return node
    for node in ready:
        if any(is_output(after) for after in feeds[node]):
            return node
    for node in ready:
        if any(is_output(last) for after in feeds[node] for last in feeds[after]):
            return node
    return ready[0]


def signatures(graph: Graph, outputs: Sequence[str], changed: Callable[[str], str]) -> dict[str, str]:
    """Return, for each node that `outputs` need, a digest of all that its result depends on, whatever it is
    called.

    `changed(node_id)` adds what the graph does not show, such as the date of a file that a node reads. In
    the order of the graph.
    """
    found: dict[str, str] = {}

    def visit(node_id: str) -> str:
        if node_id not in found:
            parts: list[Any] = [graph[node_id]["class_type"], changed(node_id)]
            for name, value in sorted(graph[node_id]["inputs"].items()):
                shown = [visit(value[0]), value[1]] if is_link(value) else {"value": value}
                parts.append([name, shown])
            found[node_id] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return found[node_id]

    for output in outputs:
        visit(output)
    return {node_id: found[node_id] for node_id in graph if node_id in found}
