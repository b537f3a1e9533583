"""What is under a root before anything is fetched: proven where it is right, removed where it is not."""

from ltxops.models import parallel
from ltxops.models.plan import State, Wanted
from ltxops.models.progress import Display
from ltxops.models.report import Report
from ltxops.models.store import Store
from ltxops.units import format_bytes


def settle(store: Store, files: list[Wanted], jobs: int, report: Report, show: Display) -> list[Wanted]:
    """Prove or remove what is there, `jobs` files at a time; return what has to be fetched."""
    states = store.inspect(files)
    bad: set[str] = set()
    hashed: set[str] = set()
    # Once more when a bad file took the proof of its hard links with it.
    while unproven := [item for item, state in states if state is State.UNPROVEN and item.dest not in hashed]:
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
    return [item for item, state in states if state.to_fetch or item.dest in bad]


def _adopt(store: Store, unproven: list[Wanted], jobs: int, report: Report, show: Display) -> set[str]:
    """Hash files that are there; return the destinations of those that were bad, and are gone."""
    bad: set[str] = set()
    for item, problem in parallel.each(jobs, unproven, store.adopt):
        if problem is None:
            report.adopted.append(item.dest)
            show.note(f"adopted  {item.dest} ({format_bytes(item.file.size)}, its hash is right)")
        else:
            bad.add(item.dest)
            show.note(f"removed  {item.dest}: it {problem}")
    return bad
