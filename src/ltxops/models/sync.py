"""Making a root hold exactly what a profile needs, and telling how it stands."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ltxops.models.direct import place_all
from ltxops.models.durable import disk_errors_explained
from ltxops.models.limits import Limits
from ltxops.models.local import share, split_twins, take_cached
from ltxops.models.lock import LockedModel
from ltxops.models.manifest import Model
from ltxops.models.order import fetch_order
from ltxops.models.plan import Space, State, Wanted, wanted_files
from ltxops.models.progress import Display
from ltxops.models.proof import Digest
from ltxops.models.store import Store
from ltxops.units import format_bytes

if TYPE_CHECKING:
    from ltxops.models.hub import Hub

_USUAL = Limits()
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Report:
    """What a sync did, as destinations; `present` counts the files that needed nothing."""

    fetched: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
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
    missing, _ = split_twins(item for item, state in states if _to_fetch(state))
    return Plan(states, _space(store, missing, states, reserve_bytes))


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
    limits: Limits = _USUAL,
    sweep: bool = True,
) -> Report:
    """Bring the root to what `models` need: adopt what is right, remove what is wrong, fetch what is missing.

    `hub` is called only when the network is needed. Parts of files that `models` do not have go, unless
    `sweep` is off. Raises the errors of ltxops; what was finished before
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
        if missing:
            _get(store, hub, missing, reserve_bytes, limits, report, show, sweep=sweep)
        elif sweep:
            store.sweep(())
    report.seconds = round(time.monotonic() - begin, 3)
    return report


def _destinations(models: Iterable[Model]) -> Iterator[str]:
    for model in models:
        yield model.destination(model.file) if model.file is not None else model.dest


def _to_hash(state: State) -> bool:
    return state is State.UNPROVEN


def _to_fetch(state: State) -> bool:
    return state in (State.MISSING, State.WRONG, State.OUTDATED)


def _space(
    store: Store, missing: list[Wanted], states: Iterable[tuple[Wanted, State]], reserve_bytes: int
) -> Space:
    arriving = sum(item.file.size - store.reserved_bytes(item) for item in missing)
    # A file of the wrong size goes before its replacement comes, so its space counts as free.
    freed = sum(
        (store.root / item.dest).stat().st_blocks * 512 for item, state in states if state is State.WRONG
    )
    return Space(arriving, reserve_bytes, store.free_bytes() + freed)


def _settle(store: Store, files: list[Wanted], jobs: int, report: Report, show: Display) -> list[Wanted]:
    """Prove or remove what is there already; return what has to be fetched."""
    states = store.inspect(files)
    bad: set[str] = set()
    hashed: set[str] = set()
    # Once more when a bad file took the proof of its hard links with it.
    while unproven := [item for item, state in states if _to_hash(state) and item.dest not in hashed]:
        show.note(f"hashing {len(unproven)} files that are there already")
        bad |= _adopt(store, unproven, jobs, report, show)
        hashed |= {item.dest for item in unproven}
        states = store.inspect(files)
    for item, state in states:
        if state is State.WRONG:
            found = (store.root / item.dest).stat().st_size
            store.remove(item)
            bad.add(item.dest)
            show.note(f"removed  {item.dest}: it has {found} bytes, promised were {item.file.size}")
    report.removed = [item.dest for item in files if item.dest in bad]
    report.present = sum(state is State.PRESENT for _, state in states) - len(report.adopted)
    return [item for item, state in states if _to_fetch(state) or item.dest in bad]


def _adopt(store: Store, unproven: list[Wanted], jobs: int, report: Report, show: Display) -> set[str]:
    """Hash files that are there; return the destinations of those that were bad, and are gone."""
    bad: set[str] = set()
    for item, problem in _parallel(jobs, unproven, store.adopt):
        if problem is None:
            report.adopted.append(item.dest)
            show.note(f"adopted  {item.dest} ({format_bytes(item.file.size)}, its hash is right)")
        else:
            bad.add(item.dest)
            show.note(f"removed  {item.dest}: it {problem}")
    return bad


def _get(
    store: Store,
    hub: "Callable[[], Hub]",
    missing: list[Wanted],
    reserve_bytes: int,
    limits: Limits,
    report: Report,
    show: Display,
    *,
    sweep: bool,
) -> None:
    """Bring what is missing: the cheapest way first, the network last."""
    wanted, twins = split_twins(share(store, fetch_order(missing), report.shared, show))
    # Reflinks take no space, so they come before the question whether there is enough.
    wanted = take_cached(store, wanted, report.cached, show, copy=False)
    if sweep:
        store.sweep({store.part(item) for item in wanted})
    _space(store, wanted, (), reserve_bytes).require(str(store.root))
    wanted = take_cached(store, wanted, report.cached, show, copy=True)
    arrived = sum(store.arrived_bytes(item) for item in wanted)
    show.expect(sum(item.file.size for item in wanted), arrived, len(wanted))
    try:
        if from_hub := [item for item in wanted if item.repo]:
            _fetch_all(store, hub(), from_hub, limits, report, show)
        place_all(store, [item for item in wanted if not item.repo], report, show)
    finally:
        # A twin that was not placed is what the error is about.
        share(store, twins, report.shared, show)


def _fetch_all(
    store: Store, hub: "Hub", missing: list[Wanted], limits: Limits, report: Report, show: Display
) -> None:
    # Imported when it is needed, as a warm sync needs no network.
    from ltxops.models.fetch import Fetch
    from ltxops.models.hub import forbidden_by_environment
    from ltxops.models.refusals import offline

    if forbidden_by_environment():
        raise offline(hub.url)
    # One question a gated repository, so that a gate is met before hours of other downloads.
    gates = {item.repo: item for item in missing if item.gated}
    for item in gates.values():
        hub.check_access(item.repo, item.revision, item.file.path)
    guard = threading.Lock()

    def place(item: Wanted, part: Path, digest: Digest, source: str) -> None:
        store.place(item, part, digest, source)
        with guard:
            report.fetched.append(item.dest)

    if limits.xet:
        from ltxops.models.xet import fetch_by_xet

        before, missing = missing, fetch_by_xet(store, hub, missing, show, place, limits.stall_seconds)
        report.bytes_fetched += sum(item.file.size for item in before if item not in missing)
    fetch = Fetch(hub, missing, limits, show, part_of=store.part, place=place)
    try:
        fetch.run()
    finally:
        report.bytes_fetched += fetch.arrived


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
