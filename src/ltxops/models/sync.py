"""Making a root hold exactly what a profile needs, and telling how it stands."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from ltxops.errors import AccessDenied, BadInput, IntegrityError, LtxopsError
from ltxops.models.durable import disk_errors_explained
from ltxops.models.fetch import Stopped, fetch
from ltxops.models.lock import LockedModel
from ltxops.models.manifest import Model
from ltxops.models.plan import Space, State, Wanted, wanted_files
from ltxops.models.progress import Display
from ltxops.models.proof import digest_of
from ltxops.models.store import Store
from ltxops.units import format_bytes

if TYPE_CHECKING:
    from ltxops.models.hub import Hub

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Report:
    """What a sync did, as destinations; `present` counts the files that needed nothing."""

    fetched: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    present: int = 0
    bytes_fetched: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """How each file of a profile stands, and whether the disk can take what is missing."""

    files: list[tuple[Wanted, State]]
    space: Space


def resolve(models: Iterable[Model], hub: "Hub", jobs: int) -> dict[str, LockedModel]:
    """Ask the hub what each model stands for. Raises what `Hub.resolve` raises."""
    items = list(models)
    return {model.name: entry for model, entry in _parallel(jobs, items, hub.resolve)}


def make_plan(
    store: Store,
    models: list[Model],
    locked: Mapping[str, LockedModel],
    *,
    hub: Callable[[], "Hub"],
    reserve_bytes: int,
    jobs: int,
) -> Plan:
    """Say what a sync would do, and change nothing. Asks the hub only about what nobody knows yet."""
    store.check(_destinations(models))
    files, unknown = wanted_files(models, locked, store.ledger.resolved)
    if unknown:
        known = {**store.ledger.resolved, **resolve(unknown, hub(), jobs)}
        files, _ = wanted_files(models, locked, known)
    store.check(item.dest for item in files)
    states = store.inspect(files)
    return Plan(
        states, _space(store, [item for item, state in states if _to_fetch(state)], states, reserve_bytes)
    )


def sync(
    store: Store,
    models: list[Model],
    locked: Mapping[str, LockedModel],
    *,
    hub: Callable[[], "Hub"],
    reserve_bytes: int,
    jobs: int,
    wait_seconds: float,
    show: Display,
) -> Report:
    """Bring the root to what `models` need: adopt what is right, remove what is wrong, fetch what is missing.

    `hub` is called only when the network is needed. Raises the errors of ltxops; what was finished before
    stays.
    """
    begin = time.monotonic()
    report = Report()
    store.check(_destinations(models))
    store.prepare()
    with disk_errors_explained(store.root), store.exclusive(wait_seconds), show:
        if store.ledger.problem:
            show.note(store.ledger.problem)
        files, unknown = wanted_files(models, locked, store.ledger.resolved)
        if unknown:
            show.note(f"not locked, asking the hub: {', '.join(model.name for model in unknown)}")
            store.ledger.remember(resolve(unknown, hub(), jobs))
            files, _ = wanted_files(models, locked, store.ledger.resolved)
        store.check(item.dest for item in files)
        missing = _settle(store, files, jobs, report, show)
        store.sweep({store.part(item) for item in missing})
        if missing:
            _space(store, missing, (), reserve_bytes).require(str(store.root))
            _fetch_all(store, hub(), missing, jobs, report, show)
    report.seconds = round(time.monotonic() - begin, 3)
    return report


def verify(store: Store, files: list[Wanted], *, deep: bool, jobs: int) -> tuple[list[str], list[str]]:
    """Return which files are missing or were never proven, and which are bad, each as destination and reason.

    Without `deep`: one stat a file against its proof. With it: every file is hashed and compared.
    """
    missing, bad, to_hash = [], [], []
    for item, state in store.inspect(files):
        if state is State.MISSING:
            missing.append(f"{item.dest} is missing")
        elif deep:
            to_hash.append(item)
        elif state is State.WRONG:
            bad.append(f"{item.dest} has another size than the {item.file.size} bytes promised")
        elif state is State.OUTDATED:
            bad.append(f"{item.dest} is not the version that is wanted now")
        elif state is State.UNPROVEN and item.dest in store.ledger.files:
            bad.append(f"{item.dest} has changed since it was proven")
        elif state is State.UNPROVEN:
            missing.append(f"{item.dest} was never proven")
    with disk_errors_explained(store.root):
        hashed = _parallel(jobs, to_hash, lambda item: digest_of(store.root / item.dest, item.file))
    bad += [f"{item.dest} {problem}" for item, digest in hashed if (problem := digest.mismatch())]
    return missing, bad


def _destinations(models: Iterable[Model]) -> Iterator[str]:
    for model in models:
        yield model.destination(model.file) if model.file is not None else model.dest


def _to_fetch(state: State) -> bool:
    return state in (State.MISSING, State.WRONG, State.OUTDATED)


def _space(
    store: Store, missing: list[Wanted], states: Iterable[tuple[Wanted, State]], reserve_bytes: int
) -> Space:
    arriving = sum(item.file.size - store.arrived_bytes(item) for item in missing)
    # A file of the wrong size goes before its replacement comes, so its space counts as free.
    freed = sum(
        (store.root / item.dest).stat().st_blocks * 512 for item, state in states if state is State.WRONG
    )
    return Space(arriving, reserve_bytes, store.free_bytes() + freed)


def _settle(store: Store, files: list[Wanted], jobs: int, report: Report, show: Display) -> list[Wanted]:
    """Prove or remove what is there already; return what has to be fetched."""
    states = store.inspect(files)
    report.present = sum(state is State.PRESENT for _, state in states)
    unproven = [item for item, state in states if state is State.UNPROVEN]
    bad: set[str] = set()
    if unproven:
        show.note(f"hashing {len(unproven)} files that are there already")
    for item, problem in _parallel(jobs, unproven, store.adopt):
        if problem is None:
            report.adopted.append(item.dest)
            show.note(f"adopted  {item.dest} ({format_bytes(item.file.size)}, its hash is right)")
        else:
            bad.add(item.dest)
            show.note(f"removed  {item.dest}: it {problem}")
    for item, state in states:
        if state is State.WRONG:
            found = (store.root / item.dest).stat().st_size
            store.remove(item)
            bad.add(item.dest)
            show.note(f"removed  {item.dest}: it has {found} bytes, promised were {item.file.size}")
    report.removed = [item.dest for item in files if item.dest in bad]
    return [item for item, state in states if _to_fetch(state) or item.dest in bad]


def _fetch_all(
    store: Store, hub: "Hub", missing: list[Wanted], jobs: int, report: Report, show: Display
) -> None:
    # One question a gated repository, so that a gate is met before hours of other downloads.
    gates = {item.repo: item for item in missing if item.gated}
    for item in gates.values():
        hub.check_access(item.repo, item.revision, item.file.path)
    arrived = sum(store.arrived_bytes(item) for item in missing)
    show.expect(sum(item.file.size for item in missing), arrived, len(missing))
    guard = threading.Lock()
    stop = threading.Event()

    def bring(item: Wanted) -> None:
        if stop.is_set():
            raise Stopped("stopped")
        part = store.part(item)
        show.start(item.dest, item.file.size, store.arrived_bytes(item))

        def arrived(count: int) -> None:
            show.advance(item.dest, count)
            with guard:
                report.bytes_fetched += max(count, 0)

        digest = fetch(hub, item, part, arrived, stop)
        store.place(item, part, digest, hub.url)
        with guard:
            report.fetched.append(item.dest)
        show.finish(item.dest, item.file.size)

    failures: list[LtxopsError] = []
    with ThreadPoolExecutor(jobs, thread_name_prefix="fetch") as pool:
        waiting = {pool.submit(bring, item) for item in missing}
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                failures += _failures(done, stop)
        except BaseException:
            stop.set()
            raise
    if failures:
        others = f" ({len(failures) - 1} more files failed)" if len(failures) > 1 else ""
        raise type(failures[0])(f"{failures[0]}{others}") from failures[0]


def _failures(done: Iterable["Future[None]"], stop: threading.Event) -> Iterator[LtxopsError]:
    """Yield what went wrong. A bad file or a closed gate concerns one file; anything else, all of them."""
    for future in done:
        error = future.exception()
        if error is None or isinstance(error, Stopped):
            continue
        if not isinstance(error, IntegrityError | AccessDenied | BadInput):
            stop.set()
        if not isinstance(error, LtxopsError):
            raise error
        yield error


def _parallel(jobs: int, items: list[Item], work: Callable[[Item], Result]) -> list[tuple[Item, Result]]:
    """Run `work` on every item, `jobs` at a time; the first error is raised once those under way end."""
    if not items:
        return []
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [(item, future.result()) for item, future in zip(items, futures, strict=True)]
        except BaseException:
            for future in futures:
                future.cancel()
            raise
