"""Hashing a file while it arrives: over the bytes that are there without a gap, read back from memory."""

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
    digest = Digest(arrival.item.file)
    buffer = memoryview(bytearray(min(_BUFFER_BYTES, max(arrival.size, 1))))
    life = arrival.life
    while True:
        with board.lock:
            while _nothing_to_do(board, arrival, life):
                arrival.news.wait()
            if arrival.error is not None:
                raise arrival.error
            if board.stopped:
                raise Stopped("stopped")
            end = arrival.followed = arrival.spans.prefix()
            if arrival.life != life:
                life = arrival.life
                digest.restart()
                continue
        _hash(board, part, digest, end, buffer)
        if digest.size < arrival.size or board.stopped:
            continue
        problem = digest.mismatch()
        with board.lock:
            if arrival.restarting or arrival.life != life:
                continue
            if problem is None:
                arrival.closing = True
                return digest
            if not arrival.resumed:
                raise _wrong(arrival, problem)
            # The beginning came from an earlier run, so it may be that which is bad.
            arrival.start_over()
            board.work.notify_all()


def _nothing_to_do(board: Board, arrival: Arrival, life: int) -> bool:
    if board.stopped or arrival.error is not None or arrival.life != life:
        return False
    return arrival.restarting or not arrival.worth_following()


def _hash(board: Board, part: PartFile, digest: Digest, end: int, buffer: memoryview) -> None:
    while digest.size < end and not board.stopped:
        count = part.read_into(buffer[: end - digest.size], digest.size)
        if not count:
            raise OSError(f"{part.path} became shorter while it was written")
        digest.update(buffer[:count])


def _wrong(arrival: Arrival, problem: str) -> IntegrityError:
    item = arrival.item
    return IntegrityError(
        f"{item.dest}: what {arrival.hubs[0].url} sent for {item.repo} {item.file.path} {problem}; it was "
        "thrown away: run again, and if it stays so ask another hub with --hub or check models.lock.yaml"
    )
