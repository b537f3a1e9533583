"""What one run of a cleaner did, as one line for a log and as one JSON object."""

from dataclasses import dataclass, field
from typing import Any

from ltxops.errors import LtxopsError
from ltxops.units import format_bytes
from ltxops.upkeep.survey import printable

#: The report names at most this many deleted files and this many problems; the counts are always whole.
LISTED_FILES = 1000
LISTED_PROBLEMS = 20


@dataclass
class Report:
    """Counts are of names, bytes are what the disk got back."""

    cleaner: str
    dir: str
    dry_run: bool
    busy: bool = False
    deleted: list[dict[str, Any]] = field(default_factory=list)
    deleted_files: int = 0
    deleted_folders: int = 0
    bytes_freed: int = 0
    kept_open: int = 0
    kept_young: int = 0
    kept_linked: int = 0
    free_before: int = 0
    free_after: int = 0
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0
    failure: LtxopsError | None = None

    def add_deleted(self, path: str, freed: int) -> None:
        """Count one deleted name, which gave `freed` bytes back."""
        self.deleted_files += 1
        self.bytes_freed += freed
        if len(self.deleted) < LISTED_FILES:
            self.deleted.append({"path": printable(path), "bytes": freed})

    def add_problem(self, text: str) -> None:
        """Count something that was left alone because it was not as it should be."""
        self.problem_count += 1
        if len(self.problems) < LISTED_PROBLEMS:
            self.problems.append(text)

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
            "free_before": self.free_before,
            "free_after": self.free_after,
            "problems": self.problems,
            "dry_run": self.dry_run,
            "busy": self.busy,
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
        return (
            f"{start}{verb} {self.deleted_files} files ({format_bytes(self.bytes_freed)}) and "
            f"{self.deleted_folders} folders; kept {self.kept_open} in use, {self.kept_young} young; "
            f"{format_bytes(self.free_after)} free"
        )
