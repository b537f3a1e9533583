"""Making a root hold exactly what a profile needs, and telling how it stands."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ltxops.models import parallel
from ltxops.models.direct import place_all
from ltxops.models.durable import disk_errors_explained
from ltxops.models.limits import Limits
from ltxops.models.local import clone_at_hand, share, split_twins, take_cached
from ltxops.models.lock import LockedModel
from ltxops.models.model import Model
from ltxops.models.order import fetch_order
from ltxops.models.plan import Space, State, Wanted, files_of, wanted_files
from ltxops.models.progress import Display
from ltxops.models.proof import Digest
from ltxops.models.report import Report
from ltxops.models.settle import settle
from ltxops.models.store import Store

if TYPE_CHECKING:
    from ltxops.models.hub import Hub

_USUAL = Limits()


@dataclass(frozen=True)
class Plan:
    """How each file of a profile stands, and whether the disk can take what is missing."""

    files: list[tuple[Wanted, State]]
    space: Space


def resolve(models: Iterable[Model], hub: "Hub", jobs: int) -> dict[str, LockedModel]:
    """Ask the hub what each model stands for. Raises what `Hub.resolve` raises."""
    items = list(models)
    return {model.name: entry for model, entry in parallel.each(jobs, items, hub.resolve)}


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
    missing, _ = split_twins(item for item, state in states if state.to_fetch)
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
    still_wanted: Iterable[Model] | None = None,
) -> Report:
    """Bring the root to what `models` need: adopt what is right, remove what is wrong, fetch what is missing.

    `hub` is called only when the network is needed. What has arrived of files that are neither of `models`
    nor of `still_wanted` is removed, unless nobody says what is still wanted. Raises the errors of ltxops;
    what was finished before stays.
    """
    report = Report()
    store.check(_destinations(models))
    store.prepare()
    with disk_errors_explained(store.root), store.exclusive(wait_seconds), show:
        begin = time.monotonic()
        if store.ledger.problem:
            show.note(store.ledger.problem)
        files, unknown = wanted_files(models, locked, store.ledger.resolved)
        if unknown:
            show.note(f"not locked, asking the hub: {', '.join(model.name for model in unknown)}")
            store.ledger.remember(resolve(unknown, hub(), jobs))
            files, _ = wanted_files(models, locked, store.ledger.resolved)
        store.check(item.dest for item in files)
        missing = settle(store, files, jobs, report, show)

        def sweep(wanted: list[Wanted]) -> None:
            if still_wanted is not None and any(store.incoming.iterdir()):
                _sweep(store, wanted, _others(store, files, still_wanted, locked))

        if missing:
            _get(store, hub, missing, reserve_bytes, limits, report, show, sweep)
        else:
            sweep([])
    report.seconds = round(time.monotonic() - begin, 3)
    return report


def _destinations(models: Iterable[Model]) -> Iterator[str]:
    for model in models:
        yield model.destination(model.file) if model.file is not None else model.dest


def _space(
    store: Store, missing: list[Wanted], states: Iterable[tuple[Wanted, State]], reserve_bytes: int
) -> Space:
    arriving = sum(item.file.size - store.reserved_bytes(item) for item in missing)
    # A file of the wrong size goes before its replacement comes, so its space counts as free.
    freed = sum(
        (store.root / item.dest).stat().st_blocks * 512 for item, state in states if state is State.WRONG
    )
    return Space(arriving, reserve_bytes, store.free_bytes() + freed, store.other_parts_bytes(missing))


def _others(
    store: Store, files: list[Wanted], models: Iterable[Model], locked: Mapping[str, LockedModel]
) -> list[Wanted]:
    """Return the known files of `models` that are none of `files`."""
    mine = set(files)
    known = [files_of(model, locked, store.ledger.resolved) or [] for model in models]
    return [item for found in known for item in found if item not in mine]


def _sweep(store: Store, wanted: list[Wanted], others: list[Wanted]) -> None:
    """Remove what has arrived of files that nobody waits for: not this run, for `wanted`, nor a profile."""
    waiting = [item for item, state in store.inspect(others) if state is not State.PRESENT]
    store.sweep(store.part(item) for item in [*wanted, *waiting])


def _get(
    store: Store,
    hub: "Callable[[], Hub]",
    missing: list[Wanted],
    reserve_bytes: int,
    limits: Limits,
    report: Report,
    show: Display,
    sweep: Callable[[list[Wanted]], None],
) -> None:
    """Bring what is missing: the cheapest way first, the network last."""
    wanted, twins = split_twins(share(store, fetch_order(missing), report.shared, show))
    # Reflinks take no space, so they come before the question whether there is enough.
    wanted = take_cached(store, wanted, report.cached, show, copy=False)
    wanted = clone_at_hand(store, wanted, report.shared, show)
    sweep(wanted)
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
