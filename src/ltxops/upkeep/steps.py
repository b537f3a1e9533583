"""What may go, besides outputs, when a disk stays full: the steps that an operator has configured, in order.

Each kind knows which folder it may be pointed at and which files in it are its own. Weights never are.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ltxops.errors import BadInput
from ltxops.upkeep.names import printable
from ltxops.upkeep.output_root import KEPT_NAMES, MARKER, MODELS, OutputRoot, is_marked, open_other_root
from ltxops.upkeep.pressure import Room, make_room
from ltxops.upkeep.removal import Remover
from ltxops.upkeep.report import Report, StepReport
from ltxops.upkeep.walk import Age
from ltxops.upkeep.weights import refuse_weights

_WEIGHTS = re.compile(r"\.(safetensors|sft|ckpt|pt|pth|gguf|bin|onnx)$", re.IGNORECASE)


def _everything(_path: str) -> bool:
    return True


@dataclass(frozen=True)
class Kind:
    """What a step deletes: the files of `folder` whose path under it `owns` takes."""

    older_than_seconds: int
    """The age from which they go, unless the operator gives another."""
    folder: str
    """A pattern for the folder's path: nothing else can be meant."""
    owns: Callable[[str], object] = _everything
    beside_output: bool = False
    """Whether the folder must lie beside the output folder, or carry its marker."""


KINDS = {
    "temp": Kind(3600, "/temp$", beside_output=True),
    "uploads": Kind(86400, "/input$", beside_output=True),
    "logs": Kind(60, "/.", re.compile(r"^[^/]+\.log\.[0-9]+(\.gz)?$").search),
    "parts": Kind(86400, r"/\.ltxops/incoming$", re.compile(r"\.part$").search),
    "pip-cache": Kind(3600, "/pip$", re.compile("^(http|http-v2|wheels|selfcheck)/").search),
    # A finished blob is a weight that a link may lead to; Xet's chunks and unfinished blobs are not.
    "hf-cache": Kind(3600, r"/(huggingface|\.hf_home)$", re.compile(r"^(hub/)?xet/|\.incomplete$").search),
}
#: Tracked by ComfyUI's repository; without it the checkout would count as modified.
_KEPT = KEPT_NAMES | {"example.png"}


@dataclass(frozen=True)
class Step:
    """One step: its kind, its folder, and the age from which its files may go."""

    kind: str
    dir: str
    older_than_seconds: int


def check(step: Step) -> None:
    """Raise BadInput for a folder that cannot be one of the step's kind."""
    path, kind = Path(step.dir), KINDS[step.kind]
    below_models = MODELS in path.parts and step.kind != "parts"
    if ".." in path.parts or not path.is_absolute() or below_models or not re.search(kind.folder, str(path)):
        raise BadInput(
            f"step {step.kind}: the folder {printable(step.dir)} cannot be one of this kind: its path "
            f"must be absolute and match {kind.folder}, and no weights may be around it"
        )


def _prove(step: Step, root: OutputRoot, output: OutputRoot) -> None:
    """Raise BadInput unless the folder that was opened, whatever links led to it, is one of the kind."""
    check(Step(step.kind, root.path, step.older_than_seconds))
    beside = Path(root.path).parent == Path(output.path).parent
    if KINDS[step.kind].beside_output and not (beside or is_marked(root.fd)):
        raise BadInput(
            f"{printable(root.path)} does not lie beside {printable(output.path)}: if everything in it may "
            f"be deleted by age, create the empty file {MARKER} in it"
        )
    refuse_weights(root)


def take_steps(
    steps: Sequence[Step],
    output: OutputRoot,
    room: Room,
    remover_for: Callable[[OutputRoot, Age], Remover],
    report: Report,
) -> None:
    """Go through the steps until there is room; what each did is in the report."""
    for step in steps:
        if room.enough:
            return
        report.steps.append(_take(step, output, room, remover_for, report))


def _take(
    step: Step,
    output: OutputRoot,
    room: Room,
    remover_for: Callable[[OutputRoot, Age], Remover],
    report: Report,
) -> StepReport:
    done = StepReport(step.kind, printable(step.dir))
    files, freed = report.deleted_files, report.bytes_freed
    try:
        with open_other_root(step.dir) as root:
            if root.key[0] != output.key[0]:
                done.note = "on another disk"
                return done
            _prove(step, root, output)
            age = Age(step.older_than_seconds)
            owns = KINDS[step.kind].owns
            report.prefix = root.path
            make_room(
                root,
                age,
                remover_for(root, age),
                report,
                room,
                lambda path: bool(owns(path)) and not _WEIGHTS.search(path),
                _KEPT,
            )
    except FileNotFoundError:
        done.note = "no such folder"
    except (OSError, BadInput) as error:
        done.note = "left alone"
        report.add_problem(f"step {step.kind}: {error}")
    finally:
        report.prefix = ""
    done.deleted_files = report.deleted_files - files
    done.bytes_freed = report.bytes_freed - freed
    return done
