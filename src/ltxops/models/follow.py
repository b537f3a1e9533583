"""Hashing a file while it arrives: over the bytes that are there without a gap.

The thread that writes the next bytes hashes them at hand; what came out of order is read back from memory.
"""

from collections.abc import Callable

from ltxops.errors import IntegrityError, LtxopsError
from ltxops.models.arrival import Arrival
from ltxops.models.board import Board
from ltxops.models.part import PartFile
from ltxops.models.proof import Digest

_BUFFER_BYTES = 512 * 1024


class Stopped(LtxopsError):
    """The run is ending because another file failed; what has arrived of this one stays for the next run."""


def follow(board: Board, arrival: Arrival, part: PartFile) -> Digest:
    """Return the digest of a file as soon as its last byte is there and proven.

    Raises IntegrityError for a hash that is wrong, Stopped, and what went wrong with the file elsewhere.
    """
    buffer = memoryview(bytearray(min(_BUFFER_BYTES, max(arrival.size, 1))))
    while True:
        with board.lock:
            while _nothing_to_do(board, arrival):
                arrival.news.wait()
            if arrival.error is not None:
                raise arrival.error
            if board.stopped:
                raise Stopped("stopped")
            end = arrival.spans.prefix()
            arrival.hashing = True
        hash_until(end, arrival.digest, part, buffer, lambda: board.stopped)
        with board.lock:
            if _proven(board, arrival):
                return arrival.digest
            arrival.leave_hash()
            board.work.notify_all()


def _nothing_to_do(board: Board, arrival: Arrival) -> bool:
    if board.stopped or arrival.error is not None:
        return False
    return arrival.restarting or not arrival.worth_following()


def hash_until(
    end: int, digest: Digest, part: PartFile, buffer: memoryview, stopped: Callable[[], bool]
) -> None:
    """Read the part back from where `digest` stands to `end`. Raises OSError."""
    while digest.size < end and not stopped():
        count = part.read_into(buffer[: end - digest.size], digest.size)
        if not count:
            raise OSError(f"{part.path} became shorter while it was written")
        digest.update(buffer[:count])


def _proven(board: Board, arrival: Arrival) -> bool:
    """Judge what was hashed, with the lock held; False when there is more to wait for."""
    if arrival.digest.size < arrival.size or board.stopped or arrival.restarting:
        return False
    problem = arrival.digest.mismatch()
    if problem is None:
        arrival.closing = True
        return True
    if not arrival.resumed:
        raise _wrong(arrival, problem)
    # The beginning came from an earlier run, so it may be that which is bad.
    arrival.start_over()
    return False


def _wrong(arrival: Arrival, problem: str) -> IntegrityError:
    item = arrival.item
    return IntegrityError(
        f"{item.dest}: what {arrival.hubs[0].url} sent for {item.repo} {item.file.path} {problem}; it was "
        "thrown away: run again, and if it stays so ask another hub with --hub or check models.lock.yaml"
    )
