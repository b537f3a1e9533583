"""The two cleaners: by age (`ttl`), and by age only while the disk is short of room (`pressure`)."""

import os
from collections.abc import Callable, Sequence

from ltxops.errors import CheckFailed, DiskFull, LtxopsError
from ltxops.units import format_bytes, format_duration
from ltxops.upkeep.in_use import OpenFiles
from ltxops.upkeep.links import Links
from ltxops.upkeep.names import printable
from ltxops.upkeep.needed import Needed, Wrapper, ask
from ltxops.upkeep.oldfile import OldFile
from ltxops.upkeep.output_root import FileKey, OutputRoot, lock, open_output_root
from ltxops.upkeep.pressure import Room, make_room
from ltxops.upkeep.removal import Interrupted, Remover
from ltxops.upkeep.report import Report
from ltxops.upkeep.signals import lease_breaks_ignored, sigterm_deferred
from ltxops.upkeep.steps import Step, check, take_steps
from ltxops.upkeep.walk import Age, Folder, walk
from ltxops.upkeep.weights import refuse_weights

#: A file with several names costs memory until the last is found; what is beyond waits for the next run.
MOST_LINKED = 20_000

Stopped = Callable[[], bool]


def clean_ttl(
    directory: str, older_than_seconds: int, dry_run: bool = False, wrapper: Wrapper | None = None
) -> Report:
    """Delete every output that nobody changed for `older_than_seconds` and nobody uses or needs.

    Raises BadInput, with nothing deleted, if `directory` is not an output folder; a problem that came up
    later is the report's `failure`.
    """
    report = Report("ttl", directory, dry_run)

    def work(root: OutputRoot, stopped: Stopped) -> None:
        age = Age(older_than_seconds)
        remover = _removers(wrapper, root, age, report, stopped)(root, age)
        visitor = _ByAge(root, age, remover, report)
        walk(root, age, visitor)
        visitor.finish()

    return _run(report, work)


def clean_pressure(
    directory: str,
    min_free_bytes: int,
    older_than_seconds: int,
    dry_run: bool = False,
    wrapper: Wrapper | None = None,
    steps: Sequence[Step] = (),
) -> Report:
    """Delete outputs older than `older_than_seconds`, oldest first, until `min_free_bytes` are free.

    Where they do not suffice, goes through `steps`. Does nothing while there is room. If there is still too
    little afterwards, the report's `failure` is a DiskFull. Raises BadInput, with nothing deleted, if
    `directory` is not an output folder or a step's folder cannot be one of its kind.
    """
    report = Report("pressure", directory, dry_run)
    for step in steps:
        check(step)

    def work(root: OutputRoot, stopped: Stopped) -> None:
        if report.free_before >= min_free_bytes:
            return
        room = Room(root.free_bytes, min_free_bytes, dry_run)
        age = Age(older_than_seconds)
        remover_for = _removers(wrapper, root, age, report, stopped)
        make_room(root, age, remover_for(root, age), report, room)
        take_steps(steps, root, room, remover_for, report)
        if not room.enough:
            report.failure = DiskFull(
                f"{printable(root.path)} has {format_bytes(room.free)} free and needs "
                f"{format_bytes(min_free_bytes)}, but no unused output older than "
                f"{format_duration(older_than_seconds)} is left to delete: free space by hand"
            )

    return _run(report, work)


def _run(report: Report, work: Callable[[OutputRoot, Stopped], None]) -> Report:
    """Open the folder, take its lock, do the work, and fill in what every report says."""
    try:
        with open_output_root(report.dir) as root, lease_breaks_ignored(), sigterm_deferred() as stopped:
            report.dir = printable(root.path)
            report.free_before = report.free_after = root.free_bytes()
            if not lock(root):
                report.busy = True
                return report
            refuse_weights(root)
            try:
                work(root, stopped)
            except Interrupted:
                report.interrupted = True
                report.failure = CheckFailed(
                    f"SIGTERM ended the cleaning of {report.dir}; the next run goes on"
                )
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


def _removers(
    wrapper: Wrapper | None, root: OutputRoot, age: Age, report: Report, stopped: Stopped
) -> Callable[[OutputRoot, Age], Remover]:
    """Ask what is open and what is needed, once a run; returns who makes the remover of one tree."""
    open_files = OpenFiles()
    open_files.refresh()
    needed: Needed = ask(wrapper, root, age.now_ns)
    if needed.problem:
        report.add_problem(needed.problem)
    return lambda tree, its_age: Remover(tree, its_age, open_files, needed, report, stopped)


class _ByAge:
    """Removes old files as a walk comes to them; one with several names when the last of them is found."""

    def __init__(self, root: OutputRoot, age: Age, remover: Remover, report: Report) -> None:
        self._remover = remover
        self._report = report
        self._linked: dict[FileKey, OldFile] = {}
        self._links = Links(root, age)

    def file(self, folder: Folder, fd: int, name: str, info: os.stat_result) -> None:
        if info.st_nlink == 1:
            self._remover.remove_at_hand(folder, fd, name, info)
            return
        key = (info.st_dev, info.st_ino)
        if key not in self._linked:
            if len(self._linked) == MOST_LINKED:
                self._report.kept_linked += 1
                return
            self._linked[key] = OldFile.of(info)
        file = self._linked[key]
        file.names.append((folder, name))
        if len(file.names) == file.links:
            self._remover.remove(self._linked.pop(key))

    def unseen(self, folder: Folder, fd: int, name: str) -> bool:
        return self._remover.remove_plain(folder, fd, name)

    def link(self, folder: Folder, fd: int, name: str) -> None:
        self._links.add(folder, fd, name)

    def young(self) -> None:
        self._report.kept_young += 1

    def leave(self, folder: Folder) -> None:
        self._remover.go_on()
        self._remover.remove_if_empty(folder)

    def problem(self, text: str) -> None:
        self._report.add_problem(text)

    def finish(self) -> None:
        """Remove what has names outside the tree, then the links that lead nowhere now."""
        for file in self._linked.values():
            self._remover.remove(file)
        self._links.remove(self._remover, self._report)
