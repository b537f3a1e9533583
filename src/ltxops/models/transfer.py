"""Bringing ranges of files: one thread's loop of asking, judging the answer, and writing what comes."""

import os
import time

from ltxops.errors import BadInput, LtxopsError, NetworkError
from ltxops.models import refusals
from ltxops.models.answers import REDIRECTS, Body, LinkRefused, PassingFault, Unlike, judge, linked_problem
from ltxops.models.arrival import Arrival, Task
from ltxops.models.board import Board
from ltxops.models.connection import Answer, ConnectionLost, Lines, join, origin_of
from ltxops.models.follow import hash_until
from ltxops.models.part import PartFile
from ltxops.models.ranges import MIB
from ltxops.models.retry import PASSING_STATUS

_BUFFER_BYTES = 512 * 1024
#: Half of what a kill may cost a connection, because what is in the buffers is lost with it.
_RECORD_BYTES = 4 * MIB
_MOST_REDIRECTS = 5
#: Where the processors are busy, bringing gives way to the hash: a file that is ahead of it only waits, and
#: the largest would be hashed alone in the end. Linux has a niceness for each thread (sched(7)).
_NICENESS = 8


class Worker:
    """Takes tasks from `board` until there are none. One a thread, with connections of its own."""

    def __init__(self, board: Board, lines: Lines) -> None:
        self._board = board
        self._lines = lines
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    def run(self) -> None:
        """Work until the board has nothing more for this thread."""
        os.nice(_NICENESS)
        try:
            while (task := self._board.take()) is not None:
                self._serve(task)
        finally:
            self._lines.close()

    def _serve(self, task: Task) -> None:
        arrival = task.arrival
        now = time.monotonic
        try:
            self._bring(task)
        except PassingFault as fault:
            self._passing(task, fault)
        except ConnectionLost as lost:
            error = refusals.unreachable(task.hub.url, arrival.failures + 1, str(lost))
            with self._board.change(arrival):
                arrival.failed(task, error, now(), None)
        except LinkRefused as refused:
            with self._board.change(arrival):
                arrival.link_refused(task, str(refused), now())
        except Unlike as unlike:
            with self._board.change(arrival):
                arrival.unlike(task, str(unlike), now())
        except (NetworkError, BadInput) as error:
            with self._board.change(arrival):
                arrival.give_up(task, error)
        except (LtxopsError, OSError) as error:
            with self._board.change(arrival):
                arrival.error = arrival.error or error
        finally:
            with self._board.change(arrival):
                arrival.ended(task)

    def _bring(self, task: Task) -> None:
        arrival = task.arrival
        answer = self._ask(task)
        body = judge(
            answer.status,
            answer.headers,
            path=arrival.item.file.path,
            size=arrival.size,
            start=task.position,
            end=task.end,
        )
        with self._board.change(arrival):
            link = None if answer.url == _hub_url(task) else answer.url
            wanted = arrival.accept(task, body, origin_of(answer.url).host, link)
        if wanted:
            self._receive(answer, task, body)

    def _receive(self, answer: Answer, task: Task, body: Body) -> None:
        part = task.arrival.part
        assert part is not None
        recorded = task.position
        try:
            going = True
            while going and task.position < task.end:
                count = answer.read_into(self._buffer[: task.end - task.position])
                if not count:
                    raise ConnectionLost(f"the body ended {task.end - task.position} bytes early")
                for start, end in self._board.missing(task, count) if body.whole else [_next(task, count)]:
                    part.write(self._buffer[start - task.position : end - task.position], start)
                # Of a whole body some bytes may have been there before, and those count.
                going, hash_here = self._board.wrote(task, count, at_hand=not body.whole)
                if hash_here:
                    self._hash(task.arrival, part, task.position - count, self._buffer[:count])
                if task.position - recorded >= _RECORD_BYTES:
                    part.record(recorded, task.position)
                    recorded = task.position
            if going and answer.left is None and answer.read_into(self._buffer[:1]):
                raise Unlike("sends more bytes than were promised")
        finally:
            if recorded < task.position:
                part.record(recorded, task.position)

    def _hash(self, arrival: Arrival, part: PartFile, start: int, data: memoryview) -> None:
        """Hash the bytes from `start` on, which are `data`, and the few before them."""
        try:
            if arrival.digest.size < start:
                before = memoryview(bytearray(start - arrival.digest.size))
                hash_until(start, arrival.digest, part, before, lambda: False)
            arrival.digest.update(data)
        finally:
            self._board.hashed(arrival)

    def _ask(self, task: Task) -> Answer:
        """Ask for the task's bytes at its link, else at the hub and wherever that sends us."""
        arrival = task.arrival
        url = task.link or _hub_url(task)
        wanted = {"Range": f"bytes={task.position}-{task.end - 1}"}
        for _ in range(_MOST_REDIRECTS + 1):
            answer = self._lines.get(url, wanted | task.hub.headers_for(url))
            target = answer.headers.get("Location")
            if answer.status not in REDIRECTS or target is None:
                self._refuse(answer, task)
                return answer
            if problem := linked_problem(answer.headers, arrival.size, arrival.item.file.sha256):
                raise Unlike(f"says that the file {problem}")
            url = join(url, target)
        raise ConnectionLost(f"{task.hub.url} redirects in circles")

    def _refuse(self, answer: Answer, task: Task) -> None:
        """Raise what the hub's own refusal means; that of a server behind it is judged elsewhere."""
        status, code = answer.status, answer.headers.get("X-Error-Code")
        asked_hub = answer.url == _hub_url(task)
        if status in PASSING_STATUS or not (code or asked_hub) or status in (200, 206, 416):
            return
        raise self._refusal(task, answer.url, status, code)

    def _refusal(self, task: Task, url: str, status: int, code: str | None) -> LtxopsError:
        return refusals.explain(
            hub=task.hub.url,
            repo=task.arrival.item.repo,
            asked=url,
            status=status,
            code=code,
            has_token=bool(task.hub.token),
            attempts=task.arrival.failures + 1,
        )

    def _passing(self, task: Task, fault: PassingFault) -> None:
        arrival = task.arrival
        error = self._refusal(task, self._lines.last_url, fault.status, None)
        with self._board.change(arrival):
            # What the hub itself refuses is the question, not one connection more.
            if fault.busy and task.link and self._board.served_beside(task):
                self._board.ask_less()
            else:
                arrival.failed(task, error, time.monotonic(), fault.wait_seconds)


def _next(task: Task, count: int) -> tuple[int, int]:
    return task.position, task.position + count


def _hub_url(task: Task) -> str:
    item = task.arrival.item
    return task.hub.file_url(item.repo, item.revision, item.file.path)
