"""The two cleaners: by age (`ttl`), and by age only while the disk is short of room (`pressure`)."""

import time
from collections.abc import Callable

from ltxops.errors import CheckFailed, DiskFull, LtxopsError
from ltxops.units import format_bytes, format_duration
from ltxops.upkeep.in_use import OpenFiles
from ltxops.upkeep.output_root import OutputRoot, lock, open_output_root
from ltxops.upkeep.removal import Remover
from ltxops.upkeep.report import Report
from ltxops.upkeep.survey import OldFile, Survey, changed_at, printable, survey

_NANO = 1_000_000_000
#: Some file systems (XFS, Btrfs) give blocks back a moment after the deletion.
_SETTLE_SECONDS = 1.0


def clean_ttl(directory: str, older_than_seconds: int, dry_run: bool = False) -> Report:
    """Delete every output that nobody changed for `older_than_seconds` and nobody uses.

    Raises BadInput, with nothing deleted, if `directory` is not an output folder; a problem that came up
    later is the report's `failure`.
    """
    report = Report("ttl", directory, dry_run)

    def work(root: OutputRoot) -> None:
        _clean(root, older_than_seconds, report, lambda files, remover: [remover.remove(f) for f in files])

    return _run(report, work)


def clean_pressure(
    directory: str, min_free_bytes: int, older_than_seconds: int, dry_run: bool = False
) -> Report:
    """Delete outputs older than `older_than_seconds`, oldest first, until `min_free_bytes` are free.

    Does nothing while there is room. If there is still too little afterwards, the report's `failure` is a
    DiskFull. Raises BadInput, with nothing deleted, if `directory` is not an output folder.
    """
    report = Report("pressure", directory, dry_run)

    def work(root: OutputRoot) -> None:
        if report.free_before >= min_free_bytes:
            return

        def make_room(files: list[OldFile], remover: Remover) -> None:
            report.free_after = _make_room(root, files, remover, min_free_bytes, report)

        _clean(root, older_than_seconds, report, make_room)
        if report.free_after < min_free_bytes:
            report.failure = DiskFull(
                f"{printable(root.path)} has {format_bytes(report.free_after)} free and needs "
                f"{format_bytes(min_free_bytes)}, but no unused output older than "
                f"{format_duration(older_than_seconds)} is left to delete: free space by hand"
            )

    return _run(report, work)


def _run(report: Report, work: Callable[[OutputRoot], None]) -> Report:
    """Open the folder, take its lock, do the work, and fill in what every report says."""
    try:
        with open_output_root(report.dir) as root:
            report.dir = printable(root.path)
            report.free_before = report.free_after = root.free_bytes()
            if not lock(root):
                report.busy = True
                return report
            work(root)
            report.free_after = _free_after(root, report)
    except OSError as error:
        raise CheckFailed(
            f"{printable(report.dir)} could not be cleaned ({error}): look at the disk"
        ) from error
    if report.problem_count and report.failure is None:
        report.failure = _failure(report)
    return report


def _free_after(root: OutputRoot, report: Report) -> int:
    """What is free now; in a dry run what would be, so that both reports read alike."""
    return report.free_before + report.bytes_freed if report.dry_run else root.free_bytes()


def _failure(report: Report) -> LtxopsError:
    more = f" (and {report.problem_count - 1} more problems)" if report.problem_count > 1 else ""
    return CheckFailed(f"in {report.dir}, {report.problems[0]}{more}")


def _clean(
    root: OutputRoot,
    older_than_seconds: int,
    report: Report,
    remove_files: Callable[[list[OldFile], Remover], object],
) -> None:
    """Look at the whole tree first (a folder of weights stops the run before any deletion), then remove."""
    now_ns, age_ns = time.time_ns(), older_than_seconds * _NANO
    found = survey(root, now_ns, age_ns)
    for problem in found.problems:
        report.add_problem(problem)
    report.kept_young = found.young
    open_files = OpenFiles()
    open_files.refresh()
    remover = Remover(root, open_files, report)
    remove_files(_oldest_first(found, now_ns), remover)
    remover.remove_dangling_links(found, now_ns, age_ns)
    remover.remove_empty_folders(found)


def _oldest_first(found: Survey, now_ns: int) -> list[OldFile]:
    return sorted(found.files.values(), key=lambda file: changed_at(file.mtime_ns, file.ctime_ns, now_ns))


def _make_room(
    root: OutputRoot, files: list[OldFile], remover: Remover, min_free_bytes: int, report: Report
) -> int:
    """Remove files until enough is free; returns the bytes that are free then (a dry run: would be)."""
    free = root.free_bytes()
    for file in files:
        if free >= min_free_bytes and not report.dry_run:
            free = _settled(root, min_free_bytes)
        if free >= min_free_bytes:
            return free
        if len(file.names) < file.links:
            report.kept_linked += len(file.names)  # lives on under a name outside: deleting it makes no room
            continue
        freed = remover.remove(file)
        free = free + freed if report.dry_run else max(root.free_bytes(), free + freed)
    return free if report.dry_run else _settled(root, min_free_bytes)


def _settled(root: OutputRoot, min_free_bytes: int) -> int:
    """Return the free bytes once they reach `min_free_bytes`, or what they are after a short wait."""
    give_up = time.monotonic() + _SETTLE_SECONDS
    while (free := root.free_bytes()) < min_free_bytes and time.monotonic() < give_up:
        time.sleep(0.1)
    return free
