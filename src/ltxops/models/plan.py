"""What has to be done to a root: decisions only, from facts that others collect."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from ltxops.errors import BadInput, DiskFull
from ltxops.models.destinations import conflict
from ltxops.models.ledger import Proof
from ltxops.models.lock import LockedFile, LockedModel
from ltxops.models.manifest import Manifest
from ltxops.models.model import Model
from ltxops.units import format_bytes


class State(Enum):
    """How a wanted file stands on disk."""

    #: Proven, and not changed since.
    PRESENT = "present"
    MISSING = "missing"
    #: Of the right size, but not proven or changed since: it has to be hashed.
    UNPROVEN = "unproven"
    #: Proven for what was wanted before; stays until its replacement is proven.
    OUTDATED = "outdated"
    #: Of another size than promised.
    WRONG = "wrong"

    @property
    def to_fetch(self) -> bool:
        """Whether the bytes that are wanted have to come from somewhere."""
        return self in (State.MISSING, State.WRONG, State.OUTDATED)


@dataclass(frozen=True)
class Wanted:
    """One file that a profile needs: where it comes from, and `dest`, where it goes under the root.

    A file of no repository has a `url`, or the `path` of a file at hand, and an empty `repo` and `revision`.
    """

    model: str
    repo: str
    revision: str
    file: LockedFile
    dest: str
    gated: bool
    url: str | None = None
    path: str | None = None


def wanted_files(
    models: Iterable[Model], locked: Mapping[str, LockedModel], resolved: Mapping[str, LockedModel]
) -> tuple[list[Wanted], list[Model]]:
    """Return the files of `models`, and the models whose files nobody knows yet.

    The lock wins over what was resolved on this host; what was resolved for another repo, file or revision
    than the manifest has now does not count. Raises BadInput when two files have one destination.
    """
    files: list[Wanted] = []
    unknown: list[Model] = []
    for model in models:
        found = files_of(model, locked, resolved)
        if found is None:
            unknown.append(model)
        else:
            files += found
    if problem := conflict((item.model, item.dest) for item in files):
        raise BadInput(f"models: {problem}; change 'dest' of one of them in the manifest")
    return files, unknown


def files_of(
    model: Model, locked: Mapping[str, LockedModel], resolved: Mapping[str, LockedModel]
) -> list[Wanted] | None:
    """Return the files of one model, None when nobody knows them yet (see `wanted_files`)."""
    entry = locked.get(model.name) or resolved.get(model.name)
    if entry is None or not entry.fits(model):
        return None
    return [
        Wanted(
            model.name,
            model.repo,
            entry.revision,
            file,
            model.destination(file.path),
            model.gated,
            entry.url,
            entry.path,
        )
        for file in entry.files
    ]


def files_of_profiles(
    wanted: Manifest,
    names: Iterable[str],
    locked: Mapping[str, LockedModel],
    resolved: Mapping[str, LockedModel],
) -> tuple[dict[str, list[Wanted]], list[Model]]:
    """Return the files of each profile in `names`, and the models whose files nobody knows yet.

    Profiles apart: two of them may want different files in one place. Raises BadInput as `wanted_files` does.
    """
    files: dict[str, list[Wanted]] = {}
    unknown: dict[str, Model] = {}
    for name in names:
        files[name], missing = wanted_files(wanted.profile(name), locked, resolved)
        unknown |= {model.name: model for model in missing}
    return files, list(unknown.values())


def state_of(wanted: Wanted, stat: os.stat_result | None, proof: Proof | None) -> State:
    """Judge one file from its stat (None when it is not there) and the proof on record."""
    if stat is None:
        return State.MISSING
    if proof is not None and proof.covers(stat):
        return State.PRESENT if proof.proves(wanted.file) else State.OUTDATED
    return State.UNPROVEN if stat.st_size == wanted.file.size else State.WRONG


@dataclass(frozen=True)
class Space:
    """Whether the disk can take what is missing. All in bytes; `parts` are of other, unfinished files."""

    needed: int
    reserve: int
    free: int
    parts: int = 0

    @property
    def short(self) -> int:
        """How much has to be freed first; 0 when there is enough. Nothing to fetch always fits."""
        return max(0, self.needed + self.reserve - self.free) if self.needed else 0

    def describe(self, root: str) -> str:
        """Return the verdict as a sentence."""
        facts = f"{format_bytes(self.needed)} to fetch and {format_bytes(self.reserve)} to keep free"
        if not self.short:
            return f"enough disk at {root}: {facts}, {format_bytes(self.free)} free"
        hint = (
            f" ({format_bytes(self.parts)} of the disk are unfinished files of other profiles, which "
            "`ltxops models prune --profile NAME --yes` removes)"
        )
        return (
            f"not enough disk at {root}: {facts}, but {format_bytes(self.free)} free, "
            f"{format_bytes(self.short)} short{hint if self.parts else ''}"
        )

    def require(self, root: str) -> None:
        """Raise DiskFull when there is not enough."""
        if self.short:
            raise DiskFull(
                f"{self.describe(root)}; free that much or use a smaller profile (nothing was fetched)"
            )
