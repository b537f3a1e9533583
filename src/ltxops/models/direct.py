"""Bringing a file that no hub describes: from a link, or from a file at hand.

Whatever comes is bounded by the size promised and hashed; a part that an earlier run left is continued.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from ltxops.errors import CheckFailed, DiskFull, IntegrityError, LtxopsError
from ltxops.models.addresses import shown
from ltxops.models.durable import disk_errors_explained
from ltxops.models.plan import Space, Wanted
from ltxops.models.progress import Display
from ltxops.models.proof import Digest
from ltxops.models.report import Report
from ltxops.models.retry import Passing
from ltxops.models.store import Store
from ltxops.units import format_bytes

#: Told the bytes as they come; less than 0 when some have to come again.
Arrived = Callable[[int], None]

_CHUNK_BYTES = 1024 * 1024


def place_all(store: Store, items: list[Wanted], report: Report, show: Display) -> None:
    """Bring and place files of no repository, one after the other, and add them to `report`.

    One that fails does not keep the others from coming, unless the disk is full; the first failure is raised
    at the end. Raises what `bring` raises.
    """
    failures: list[LtxopsError] = []
    for item in items:
        try:
            report.bytes_fetched += place(store, item, show)[1]
            report.fetched.append(item.dest)
        except DiskFull:
            raise
        except LtxopsError as error:
            failures.append(error)
    if failures:
        raise failures[0]


def place(store: Store, item: Wanted, show: Display) -> tuple[Wanted, int]:
    """Bring and place one file of no repository; return it with its sha256, and how many bytes came.

    Call it with the store's lock held. Raises what `bring` raises.
    """
    part, came = store.part(item), 0

    def arrived(count: int) -> None:
        nonlocal came
        came += count
        show.advance(item.dest, count)

    show.start(item.dest, item.file.size, store.arrived_bytes(item))
    digest = bring(item, part, arrived)
    known = replace(item, file=replace(item.file, sha256=digest.sha256))
    store.place(known, part, digest, item.url or str(item.path))
    show.finish(item.dest, item.file.size)
    return known, came


def place_unproven(
    store: Store, item: Wanted, *, reserve_bytes: int, wait_seconds: float, show: Display
) -> str:
    """Bring and place a file of which nobody knows the hash; return the sha256 of what came.

    Raises Busy, DiskFull before the first byte when there is no room, and what `bring` raises.
    """
    store.prepare()
    with disk_errors_explained(store.root), store.exclusive(wait_seconds), show:
        Space(item.file.size - store.arrived_bytes(item), reserve_bytes, store.free_bytes()).require(
            str(store.root)
        )
        show.expect(item.file.size, store.arrived_bytes(item))
        known, _ = place(store, item, show)
    return str(known.file.sha256)


def bring(wanted: Wanted, part: Path, arrived: Arrived) -> Digest:
    """Bring a file to `part`, proven and synced to disk; return its digest.

    A hash that is not promised is not compared, only told. Raises IntegrityError (with nothing left at
    `part`), CheckFailed when a file at hand is not there, DiskFull, and what `link.answer` raises (with what
    has arrived left for the next run).
    """
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "r+b") as stream:
            digest = _Sink(wanted, stream, arrived).fill()
            stream.flush()
            os.fsync(stream.fileno())
            return digest
    except IntegrityError:
        part.unlink(missing_ok=True)
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"the disk of {part.parent} filled up while {wanted.dest} arrived "
                f"({format_bytes(wanted.file.size)}); free some space and run again: finished files are "
                "intact"
            ) from error
        raise


class _Sink:
    """One part file that is being filled; all that is in it has been hashed."""

    def __init__(self, wanted: Wanted, stream: BinaryIO, arrived: Arrived) -> None:
        self._wanted, self._stream, self._arrived = wanted, stream, arrived
        self._digest = Digest(wanted.file)
        while self._digest.size < wanted.file.size and (chunk := stream.read(_CHUNK_BYTES)):
            self._digest.update(chunk[: wanted.file.size - self._digest.size])
        stream.seek(self._digest.size)
        stream.truncate()

    def fill(self) -> Digest:
        resumed = self._digest.size > 0
        self._fetch()
        if resumed and self._digest.mismatch():
            # The beginning came from an earlier run, so it may be that which is bad.
            self._restart()
            self._fetch()
        if problem := self._digest.mismatch():
            raise IntegrityError(
                f"{self._wanted.dest}: what came from {self._origin()} {problem}; it was thrown away: if it "
                "was replaced there on purpose, remove the entry and add it again"
            )
        return self._digest

    def _origin(self) -> str:
        return shown(self._wanted.url) if self._wanted.url else str(self._wanted.path)

    def _fetch(self) -> None:
        if self._wanted.url is not None:
            from ltxops.models.link import retried

            url = self._wanted.url
            retried(url, lambda: self._download(url), lambda: self._digest.size)
        else:
            self._copy(Path(str(self._wanted.path)))

    def _copy(self, source: Path) -> None:
        try:
            with source.open("rb", buffering=0) as stream:
                stream.seek(self._digest.size)
                while chunk := stream.read(_CHUNK_BYTES):
                    self._take(chunk)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise CheckFailed(
                f"{self._wanted.dest} comes from {source} on the machine where it was added, which cannot be "
                f"read here ({error.strerror}); copy that file to its place under the root and run again"
            ) from error

    def _download(self, url: str) -> None:
        # Imported late: a sync that needs no link does without an HTTP library.
        from ltxops.models.link import answer, first, total

        begin, size = self._digest.size, self._wanted.file.size
        if begin == size:
            return
        with answer(url, {"range": f"bytes={begin}-"} if begin else {}) as response:
            if begin and (response.status_code != 206 or first(response) != begin):
                self._restart()
                if response.status_code == 206:
                    raise Passing("the server sent another range than was asked for")
            promised = total(response)
            if promised is not None and promised != size:
                raise IntegrityError(
                    f"{self._wanted.dest}: {shown(url)} has {promised} bytes, promised were {size}"
                )
            for chunk in response.iter_raw(_CHUNK_BYTES):
                self._take(chunk)
        if self._digest.size < size:
            raise Passing(f"the connection ended after {self._digest.size} of {size} bytes")

    def _take(self, chunk: bytes) -> None:
        if self._digest.size + len(chunk) > self._wanted.file.size:
            raise IntegrityError(
                f"{self._wanted.dest}: {self._origin()} has more than the {self._wanted.file.size} bytes "
                "promised"
            )
        self._stream.write(chunk)
        self._digest.update(chunk)
        self._arrived(len(chunk))

    def _restart(self) -> None:
        self._arrived(-self._digest.size)
        self._digest.restart()
        self._stream.seek(0)
        self._stream.truncate()
