"""Says what is wrong with a submitted graph, in the words and shapes of the real ComfyUI.

The rules and messages are those of ComfyUI 0.27.0's `validate_prompt`, checked against every recorded
answer. As there, a value that can be converted is converted in the graph itself, and one good output is
enough to be accepted.
"""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ltxops.embedded.comfyui.catalog import Catalog
from ltxops.embedded.comfyui.inputs import Complaint, complaint, declared_inputs, types_fit, value_complaints

#: A submitted graph; validation converts values in it.
MutableGraph = dict[str, dict[str, Any]]
#: Checks that a class makes of an input itself instead of the general ones: (class, input) → what is wrong.
CustomChecks = Mapping[tuple[str, str], Callable[[Any], str | None]]

#: What a check can stumble over in a graph that is put together wrongly.
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Verdict:
    """What became of a graph: the outputs that will run, or why none will, and the complaints by node."""

    outputs: list[str]
    error: Complaint | None
    node_errors: dict[str, Any]


@dataclass(frozen=True)
class _Result:
    """What became of one node. It is bad without complaints of its own where only a node above it is bad."""

    good: bool
    complaints: list[Complaint]


def validate(graph: MutableGraph, catalog: Catalog, custom: CustomChecks) -> Verdict:
    """Check a graph. Raises TypeError and the like for what is no graph, which ComfyUI answers with 500."""
    outputs = []
    for node_id in graph:
        error = _class_error(node_id, graph[node_id], catalog)
        if error:
            return Verdict([], error, {})
        if catalog[graph[node_id]["class_type"]]["output_node"]:
            outputs.append(node_id)
    if not outputs:
        return Verdict([], complaint("prompt_no_outputs", "Prompt has no outputs", "", {}), {})

    walk = _Walk(graph, catalog, custom)
    good: list[str] = []
    own: list[Complaint] = []
    node_errors: dict[str, Any] = {}
    for output in outputs:
        result = walk.output(output)
        if result.good:
            good.append(output)
            continue
        own += result.complaints
        for node_id, seen in walk.results.items():
            if not seen.good and seen.complaints:
                entry = node_errors.setdefault(
                    node_id,
                    {
                        "errors": seen.complaints,
                        "dependent_outputs": [],
                        "class_type": graph[node_id]["class_type"],
                    },
                )
                entry["dependent_outputs"].append(output)
    if good:
        return Verdict(good, None, node_errors)
    details = "\n".join(f"{item['message']}: {item['details']}" for item in own)
    message = "Prompt outputs failed validation"
    return Verdict([], complaint("prompt_outputs_failed_validation", message, details, {}), node_errors)


def _class_error(node_id: str, node: dict[str, Any], catalog: Catalog) -> Complaint | None:
    """Return what is wrong with a node's class, if anything. One such node refuses the whole graph."""
    class_type = node.get("class_type")
    if class_type in catalog:
        return None
    title = node.get("_meta", {}).get("title", class_type)
    if class_type is None:
        message = f"Node '{title or f'ID #{node_id}'}' has no class_type."
        message += " The workflow may be corrupted or a custom node is missing."
    else:
        message = f"Node '{title}' not found. The custom node may not be installed."
    extra = {"node_id": node_id, "class_type": class_type, "node_title": title}
    return complaint("missing_node_type", message, f"Node ID '#{node_id}'", extra)


class _Walk:
    """Walks up from the outputs and remembers what became of each node."""

    def __init__(self, graph: MutableGraph, catalog: Catalog, custom: CustomChecks) -> None:
        self.graph = graph
        self.catalog = catalog
        self.custom = custom
        self.results: dict[str, _Result] = {}
        self.path: list[str] = []

    def output(self, node_id: str) -> _Result:
        """Judge an output and all above it."""
        try:
            return self.node(node_id)
        except MALFORMED as error:
            extra = {
                "exception_type": type_name(error),
                "traceback": traceback.format_tb(error.__traceback__),
            }
            found = complaint(
                "exception_during_validation", "Exception when validating node", str(error), extra
            )
            self.results[node_id] = _Result(False, [found])
            return self.results[node_id]

    def node(self, node_id: str) -> _Result:
        """Judge one node and all above it."""
        if node_id in self.results:
            return self.results[node_id]
        if node_id in self.path:
            return self._cycle(node_id)
        inputs = self.graph[node_id]["inputs"]
        class_type = self.graph[node_id]["class_type"]
        complaints: list[Complaint] = []
        good = True
        for name, spec, required in declared_inputs(self.catalog[class_type], inputs):
            if name not in inputs:
                if required:
                    details = name.split(".")[-1]
                    missing = "Required input is missing"
                    complaints.append(
                        complaint("required_input_missing", missing, details, {"input_name": name})
                    )
            elif isinstance(inputs[name], list):
                found, above_good = self._link(node_id, name, spec, inputs[name])
                complaints += found
                good = good and above_good
            elif (class_type, name) in self.custom:
                reason = self.custom[class_type, name](inputs[name])
                if reason:
                    failed = "Custom validation failed for node"
                    details = f"{name} - {reason}"
                    complaints.append(
                        complaint("custom_validation_failed", failed, details, {"input_name": name})
                    )
            else:
                complaints += value_complaints(inputs, name, spec)
        if node_id in self.results:
            # A cycle through this node was found on the way up.
            complaints = self.results[node_id].complaints + complaints
        self.results[node_id] = _Result(good and not complaints, complaints)
        return self.results[node_id]

    def _link(
        self, node_id: str, name: str, spec: list[Any], link: list[Any]
    ) -> tuple[list[Complaint], bool]:
        """Judge one link and the node that it leads to: (complaints of this node, is the other one good)."""
        wanted, extra = spec[0], {"input_name": name, "input_config": spec}
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            return [complaint("bad_linked_input", message, name, {**extra, "received_value": link})], True
        received = self.catalog[self.graph[link[0]]["class_type"]]["output"][link[1]]
        if not types_fit(received, wanted):
            details = f"{name}, received_type({received}) mismatch input_type({wanted})"
            extra |= {"received_type": received, "linked_node": link}
            message = "Return type mismatch between linked nodes"
            return [complaint("return_type_mismatch", message, details, extra)], True
        self.path.append(node_id)
        try:
            return [], self.node(link[0]).good
        except MALFORMED as error:
            extra |= {
                "exception_message": str(error),
                "exception_type": type_name(error),
                "traceback": traceback.format_tb(error.__traceback__),
                "linked_node": link,
            }
            message = "Exception when validating inner node"
            found = complaint("exception_during_inner_validation", message, str(error), extra)
            self.results[link[0]] = _Result(False, [found])
            return [], False
        finally:
            self.path.pop()

    def _cycle(self, node_id: str) -> _Result:
        """Blame every node of the cycle that comes back to `node_id`."""
        members = self.path[self.path.index(node_id) :]
        details = " -> ".join(f"{n} ({self.graph[n]['class_type']})" for n in [*members, node_id])
        for member in members:
            extra = {"node_id": member, "cycle_nodes": members}
            found = complaint("dependency_cycle", "Dependency cycle detected", details, extra)
            self.results[member] = _Result(False, [found])
        return self.results[node_id]


def type_name(error: BaseException) -> str:
    """Return an exception's class as ComfyUI shows it: with its module, unless it is built in."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
