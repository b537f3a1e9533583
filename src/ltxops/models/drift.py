"""What differs between the lock and the hub, told so that a person can review it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ltxops.models.lock import LockedFile, LockedModel
from ltxops.units import format_bytes

_SHORT = 12


@dataclass(frozen=True)
class Change:
    """One model whose lock differs; `old` is what the lock says, `new` what the hub has, None for nothing."""

    model: str
    old: LockedModel | None
    new: LockedModel | None

    @property
    def kind(self) -> str:
        """What happens to the entry: added, changed or removed."""
        if self.old is None:
            return "added"
        return "changed" if self.new is not None else "removed"

    def as_json(self) -> dict[str, Any]:
        """Return everything about it for a program."""
        return {"model": self.model, "kind": self.kind, "old": _as_json(self.old), "new": _as_json(self.new)}

    def lines(self) -> list[str]:
        """Return it for a person: a line for the model, and one for each thing that differs."""
        if self.old is None or self.new is None:
            entry = self.old or self.new
            assert entry is not None
            files = [f"  {file.path}: {_describe(file)}" for file in entry.files]
            revision = [f"  revision {entry.revision[:_SHORT]}"] if entry.revision else []
            return [f"{self.kind:8} {self.model}", *revision, *files]
        return [f"{self.kind:8} {self.model}", *_differences(self.old, self.new)]


def changes(old: Mapping[str, LockedModel], new: Mapping[str, LockedModel]) -> list[Change]:
    """Return how `new` differs from `old`, in the order of `new`, what is gone last."""
    found = [Change(name, old.get(name), entry) for name, entry in new.items() if old.get(name) != entry]
    return found + [Change(name, entry, None) for name, entry in old.items() if name not in new]


def _as_json(entry: LockedModel | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    return {"revision": entry.revision, "files": [asdict(file) for file in entry.files]}


def _differences(old: LockedModel, new: LockedModel) -> list[str]:
    lines = []
    if (old.repo, old.ref, old.select) != (new.repo, new.ref, new.select):
        lines.append(f"  asks for {_asked(old)} -> {_asked(new)}")
    if old.revision != new.revision:
        lines.append(f"  revision {old.revision[:_SHORT]} -> {new.revision[:_SHORT]}")
    before = {file.path: file for file in old.files}
    after = {file.path: file for file in new.files}
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            lines.append(f"  {path}: {_describe(before.get(path))} -> {_describe(after.get(path))}")
    return lines


def _asked(entry: LockedModel) -> str:
    return f"{entry.repo} {', '.join(entry.select)}" + (f" at {entry.ref}" if entry.ref else "")


def _describe(file: LockedFile | None) -> str:
    if file is None:
        return "nothing"
    kind, digest = ("sha256", file.sha256) if file.sha256 else ("git_blob", file.git_blob or "")
    return f"{file.size} bytes ({format_bytes(file.size)}), {kind} {digest[:_SHORT]}"
