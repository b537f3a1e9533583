"""What a node may use while it runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ltxops.embedded.comfyui.options import Folders


class Interrupted(Exception):
    """The job was interrupted, or the engine is stopping."""


class Unsupported(Exception):
    """The graph asks for something that this engine does not stand in for."""


@dataclass(frozen=True)
class Context:
    """One run of one node.

    `check()` raises Interrupted when it is time to stop; `step(done, total)` reports a sampler's progress,
    paces it, and checks too.
    """

    folders: Folders
    graph: Mapping[str, Any]
    extra: Mapping[str, Any]
    check: Callable[[], None]
    step: Callable[[int, int], None]


@dataclass(frozen=True)
class Result:
    """What a node gives: its outputs in order, and for an output node what the API shows of it."""

    outputs: tuple[Any, ...]
    shown: dict[str, Any] | None = field(default=None)


#: Inputs by name; links are already what they lead to, and optional ones may be absent.
Inputs: TypeAlias = Mapping[str, Any]
Node: TypeAlias = Callable[[Context, Inputs], Result]
