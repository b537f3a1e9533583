"""What one run of a cleaner did, as one line for a log and as one JSON object."""

from dataclasses import dataclass, field
from typing import Any

from ltxops.errors import LtxopsError
from ltxops.units import format_bytes
from ltxops.upkeep.names import printable

#: The report names at most so many; the counts are always whole.
LISTED_FILES = 1000
LISTED_PROBLEMS = 20
LISTED_NEEDED = 20


@dataclass
class StepReport:
    """What one further step against a full disk did. Bytes are what the disk got back."""

    kind: str
    dir: str
    deleted_files: int = 0
    bytes_freed: int = 0
    note: str = ""
    """Why nothing was tried, empty if it was."""

    def to_json(self) -> dict[str, Any]:
        """Return this step's entry in `--json`."""
        return {
            "kind": self.kind,
            "dir": self.dir,
            "deleted_files": self.deleted_files,
            "bytes_freed": self.bytes_freed,
            "note": self.note,
        }

    def text(self) -> str:
        """Say it in a few words for a log."""
        if self.note:
            return f"{self.kind}: {self.note}"
        return f"{self.kind}: {self.deleted_files} files ({format_bytes(self.bytes_freed)})"


@dataclass
class Report:
    """Counts are of names, bytes are what the disk got back."""

    cleaner: str
    dir: str
    dry_run: bool
    busy: bool = False
    interrupted: bool = False
    deleted: list[dict[str, Any]] = field(default_factory=list)
    deleted_files: int = 0
    deleted_folders: int = 0
    bytes_freed: int = 0
    kept_open: int = 0
    kept_young: int = 0
    kept_linked: int = 0
    kept_needed: int = 0
    needed: list[str] = field(default_factory=list)
    free_before: int = 0
    free_after: int = 0
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0
    steps: list[StepReport] = field(default_factory=list)
    prefix: str = ""
    """The folder that paths are told under when it is not `dir`, else empty."""
    failure: LtxopsError | None = None

    def add_deleted(self, path: str, freed: int) -> None:
        """Count one deleted name, which gave `freed` bytes back."""
        self.deleted_files += 1
        self.bytes_freed += freed
        if len(self.deleted) < LISTED_FILES:
            self.deleted.append({"path": printable(self._told(path)), "bytes": freed})

    def add_needed(self, path: str) -> None:
        """Count one name that the wrapper still needs."""
        self.kept_needed += 1
        if len(self.needed) < LISTED_NEEDED:
            self.needed.append(printable(path))

    def add_problem(self, text: str) -> None:
        """Count something that was left alone because it was not as it should be."""
        self.problem_count += 1
        if len(self.problems) < LISTED_PROBLEMS:
            self.problems.append(text)

    def _told(self, path: str) -> str:
        return f"{self.prefix}/{path}" if self.prefix else path

    def to_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        result: dict[str, Any] = {
            "ok": self.failure is None,
            "cleaner": self.cleaner,
            "dir": self.dir,
            "deleted": self.deleted,
            "deleted_truncated": self.deleted_files > len(self.deleted),
            "deleted_files": self.deleted_files,
            "deleted_folders": self.deleted_folders,
            "bytes_freed": self.bytes_freed,
            "kept_open": self.kept_open,
            "kept_young": self.kept_young,
            "kept_linked": self.kept_linked,
            "kept_needed": self.kept_needed,
            "needed": self.needed,
            "free_before": self.free_before,
            "free_after": self.free_after,
            "steps": [step.to_json() for step in self.steps],
            "problems": self.problems,
            "dry_run": self.dry_run,
            "busy": self.busy,
            "interrupted": self.interrupted,
        }
        if self.failure is not None:
            result |= {"error": str(self.failure), "exit_code": self.failure.exit_code}
        return result

    def line(self) -> str:
        """Return the one line of this run for a log."""
        start = f"clean {self.cleaner} {printable(self.dir)}: "
        if self.busy:
            return start + "busy, another run is cleaning this folder; nothing done"
        verb = "would delete" if self.dry_run else "deleted"
        steps = "".join(f"; {step.text()}" for step in self.steps)
        return (
            f"{start}{verb} {self.deleted_files} files ({format_bytes(self.bytes_freed)}) and "
            f"{self.deleted_folders} folders; kept {self.kept_open} in use, {self.kept_young} young, "
            f"{self.kept_needed} needed{steps}; {format_bytes(self.free_after)} free"
        )

    def details(self) -> list[str]:
        """Return the lines that follow it: each deletion, what is still needed, and each problem."""
        verb = "would delete" if self.dry_run else "deleted"
        lines = [f"{verb} {entry['path']} ({format_bytes(entry['bytes'])})" for entry in self.deleted]
        if (more := self.deleted_files - len(self.deleted)) > 0:
            lines.append(f"{verb} {more} more files")
        lines += [f"kept {path}: the wrapper still needs it" for path in self.needed]
        if (more := self.kept_needed - len(self.needed)) > 0:
            lines.append(f"kept {more} more files that the wrapper still needs")
        lines += self.problems
        if (more := self.problem_count - len(self.problems)) > 0:
            lines.append(f"{more} more problems")
        return lines
