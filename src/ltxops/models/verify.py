"""Checking that what a profile needs is there and unchanged: by a stat a file, or by hashing everything."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from ltxops.models.plan import State, Wanted
from ltxops.models.proof import digest_of
from ltxops.models.store import Store

if TYPE_CHECKING:
    from ltxops.models.progress import Display


@dataclass
class Verdict:
    """What is wrong, each as destination and reason: not there or never proven, and bad."""

    missing: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    bytes_hashed: int = 0


def verify(store: Store, files: list[Wanted]) -> Verdict:
    """Judge each file by one stat against its proof."""
    verdict = Verdict()
    for item, state in store.inspect(files):
        if state is State.MISSING:
            verdict.missing.append(f"{item.dest} is missing")
        elif state is State.WRONG:
            verdict.bad.append(f"{item.dest} has another size than the {item.file.size} bytes promised")
        elif state is State.OUTDATED:
            verdict.bad.append(f"{item.dest} is not the version that is wanted now")
        elif state is State.UNPROVEN and item.dest in store.ledger.files:
            verdict.bad.append(f"{item.dest} has changed since it was proven")
        elif state is State.UNPROVEN:
            verdict.missing.append(f"{item.dest} was never proven")
    return verdict


def verify_deep(store: Store, files: list[Wanted], *, jobs: int, show: "Display") -> Verdict:
    """Hash every file, `jobs` at a time, and judge it by that; removes nothing and proves nothing.

    A file that cannot be read is a bad one, and keeps no other from being hashed.
    """
    verdict = Verdict()
    states = store.inspect(files)
    verdict.missing = [f"{item.dest} is missing" for item, state in states if state is State.MISSING]
    there = [item for item, state in states if state is not State.MISSING]

    def judge(item: Wanted) -> str | None:
        path = store.root / item.dest
        try:
            size = path.stat().st_size
            show.start(item.dest, size, 0)
            digest = digest_of(path, item.file, partial(show.advance, item.dest))
        except OSError as error:
            return f"{item.dest} cannot be read: {error.strerror or error}"
        verdict_of_bytes = digest.mismatch()
        if verdict_of_bytes is None:
            show.finish(item.dest, size)
            return None
        return f"{item.dest} {verdict_of_bytes}"

    with show, ThreadPoolExecutor(jobs, thread_name_prefix="hash") as pool:
        show.expect(sum(item.file.size for item in there), 0)
        # The largest first, so that none of them is left to be hashed alone at the end.
        order = sorted(there, key=lambda item: item.file.size, reverse=True)
        problems = dict(zip((item.dest for item in order), pool.map(judge, order), strict=True))
    verdict.bad = [problem for item in there if (problem := problems[item.dest]) is not None]
    verdict.bytes_hashed = sum(item.file.size for item in there)
    return verdict
