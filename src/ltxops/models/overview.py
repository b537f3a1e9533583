"""How a root stands, file by file and profile by profile: facts for `status`, collected without a change."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ltxops.models.lock import LockedModel, missing_from
from ltxops.models.manifest import Manifest
from ltxops.models.model import Model
from ltxops.models.plan import State, Wanted, files_of_profiles
from ltxops.models.store import Store


@dataclass(frozen=True)
class Row:
    """One wanted file; `arrived` counts its bytes that are there, all of them or those of a part."""

    item: Wanted
    state: State
    arrived: int

    @property
    def label(self) -> str:
        """Its state for a person, who wants to know that a missing file is on its way."""
        return "arriving" if self.state is State.MISSING and self.arrived else self.state.value

    @property
    def percent(self) -> int:
        """How much of it is there, rounded down so that only a whole file has 100."""
        size = self.item.file.size
        return 100 * self.arrived // size if size else 100 * (self.state is State.PRESENT)


@dataclass(frozen=True)
class Total:
    """What a profile is, and what of it is present, in bytes; not counted are the models in `unresolved`."""

    profile: str
    files: int
    files_present: int
    size: int
    size_present: int
    unresolved: list[str]


@dataclass(frozen=True)
class Overview:
    """All rows, each file once; `unknown` are the models whose files nobody knows. `free` is in bytes."""

    rows: list[Row]
    totals: list[Total]
    unknown: list[Model]
    unlocked: list[str]
    free: int
    root: Path


def look(store: Store, wanted: Manifest, names: Iterable[str], locked: Mapping[str, LockedModel]) -> Overview:
    """Return how the profiles in `names` stand. Raises BadInput as `wanted_files` does."""
    chosen = list(names)
    by_profile, unknown = files_of_profiles(wanted, chosen, locked, store.ledger.resolved)
    once = dict.fromkeys(item for files in by_profile.values() for item in files)
    rows = {item: Row(item, state, _arrived(store, item, state)) for item, state in store.inspect(once)}
    models = dict.fromkeys(model.name for name in chosen for model in wanted.profile(name))
    return Overview(
        list(rows.values()),
        [
            _total(
                name,
                [rows[item] for item in files],
                [model.name for model in wanted.profile(name) if model in unknown],
            )
            for name, files in by_profile.items()
        ],
        unknown,
        missing_from([wanted.models[name] for name in models], locked),
        store.free_bytes(),
        store.root,
    )


def _arrived(store: Store, item: Wanted, state: State) -> int:
    return item.file.size if state is State.PRESENT else store.arrived_bytes(item)


def _total(name: str, rows: list[Row], unresolved: list[str]) -> Total:
    present = [row for row in rows if row.state is State.PRESENT]
    return Total(
        name,
        len(rows),
        len(present),
        sum(row.item.file.size for row in rows),
        sum(row.item.file.size for row in present),
        unresolved,
    )
