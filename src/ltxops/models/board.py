"""What the threads of a fetch share: the files in their order, who works on what, and one lock around it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ltxops.models.arrival import Arrival, Task
from ltxops.models.pace import Pace
from ltxops.models.part import PartFile
from ltxops.models.ranges import range_bytes

#: So many files are fetched at a time: enough to keep several processors hashing, few enough to keep order.
_OPEN_FILES = 4
#: So many are open at most, with those that wait for their hash or for the disk.
_OPEN_IN_ALL = 8
_LONGEST_WAIT_SECONDS = 0.5


class Board:
    """Arrivals wait, are open, and leave. Threads take tasks from those that are open."""

    def __init__(self, arrivals: list[Arrival], most_connections: int, lock: threading.Lock) -> None:
        self.lock = lock
        #: Wakes threads that wait for a task, and the one that waits for the end.
        self.work = threading.Condition(self.lock)
        self.done = threading.Condition(self.lock)
        self.waiting = arrivals
        self.open: list[Arrival] = []
        self.pace = Pace(most_connections)
        self.workers = 0
        self.stopped = False
        #: Bytes that came over the network and were new, in all.
        self.arrived = 0

    def unfinished(self) -> bool:
        """Tell whether there is still something to do."""
        with self.lock:
            return not self.stopped and bool(self.waiting or self.open)

    def missing_workers(self) -> int:
        """Return how many threads should be started, counted as working from now on."""
        with self.lock:
            missing = max(0, self.pace.connections - self.workers)
            self.workers += missing
            return missing

    def next_to_open(self) -> Arrival | None:
        """Return the next file that a thread should start to follow, counted as open from now on."""
        with self.lock:
            asking = sum(not arrival.closing and self._gap(arrival) is not None for arrival in self.open)
            room = asking < _OPEN_FILES and len(self.open) < _OPEN_IN_ALL
            if self.stopped or not room or not self.waiting:
                return None
            self.open.append(self.waiting.pop(0))
            return self.open[-1]

    def opened(self, arrival: Arrival, part: PartFile) -> None:
        """The part file is ready: tasks may be given out."""
        with self.lock:
            arrival.part, arrival.spans, arrival.version = part, part.spans, part.source
            arrival.resumed = part.spans.total
            self.work.notify_all()

    def take(self) -> Task | None:
        """Wait for a task; None when the thread is to end. A thread counts in `workers` until then."""
        with self.lock:
            while not self.stopped and self.workers <= self.pace.connections and (self.waiting or self.open):
                task = self._next_task()
                if task is not None:
                    return task
                self.work.wait(self._soonest())
            self.workers -= 1
            return None

    def missing(self, task: Task, count: int) -> list[tuple[int, int]]:
        """Return which of the next `count` bytes of a task nobody has written yet."""
        with self.lock:
            return task.arrival.missing(task, count)

    def wrote(self, task: Task, count: int, *, at_hand: bool) -> tuple[bool, bool]:
        """Count bytes as written; return whether to go on, and whether to hash them now.

        Only a thread that has the bytes `at_hand` is asked to, and has to call `hashed` then.
        """
        arrival = task.arrival
        with self.lock:
            self.arrived += arrival.wrote(task, count)
            hash_here = at_hand and arrival.take_hash(task)
            if arrival.worth_following():
                arrival.news.notify()
            return not (self.stopped or arrival.restarting or arrival.error or arrival.closing), hash_here

    def hashed(self, arrival: Arrival) -> None:
        """The thread that was asked to hash has done so."""
        with self.lock:
            arrival.leave_hash()
            if arrival.worth_following():
                arrival.news.notify()

    def served_beside(self, task: Task) -> bool:
        """Tell whether others are being served bytes of the same file. Call with the lock held."""
        return any(other.new for other in task.arrival.active if other is not task)

    def ask_less(self) -> None:
        """A server refused one connection more than it serves. Call with the lock held."""
        self.pace.refused(self.served())

    def served(self) -> int:
        """Return how many threads are being served bytes. Call with the lock held."""
        return sum(task.new > 0 for arrival in self.open for task in arrival.active)

    @contextmanager
    def change(self, arrival: Arrival) -> Iterator[None]:
        """Hold the lock to change an arrival, then wake whoever may wait for that."""
        with self.lock:
            yield
            arrival.news.notify_all()
            self.work.notify_all()

    def close(self, arrival: Arrival) -> None:
        """Give out no more tasks of a file and wait until nobody writes to it."""
        with self.lock:
            arrival.closing = True
            while arrival.active:
                arrival.news.wait()

    def leave(self, arrival: Arrival) -> None:
        """A file is done with, well or not."""
        with self.lock:
            self.open.remove(arrival)
            self.work.notify_all()
            self.done.notify_all()

    def stop(self) -> None:
        """Let every thread end soon."""
        with self.lock:
            self.stopped = True
            self.work.notify_all()
            self.done.notify_all()
            for arrival in self.open:
                arrival.news.notify_all()

    def _next_task(self) -> Task | None:
        now = time.monotonic()
        gaps = [
            (arrival, gap)
            for arrival in self.open
            if arrival.open_for(now) and (gap := self._gap(arrival)) is not None
        ]
        if not gaps:
            return None
        # One thread a file as far as they go: the one that writes a file's next bytes can hash them at hand.
        arrival, gap = min(gaps, key=lambda pair: (len(pair[0].active), pair[0].digest.size - pair[0].size))
        return arrival.task(gap, range_bytes(self.unclaimed(), self.pace.expected))

    def unclaimed(self) -> int:
        """Return how many bytes nobody was asked for yet. Call with the lock held."""
        claimed = sum(arrival.size - arrival.claimed().total for arrival in self.open)
        return claimed + sum(arrival.size for arrival in self.waiting)

    def _gap(self, arrival: Arrival) -> tuple[int, int] | None:
        return arrival.claimed().first_gap(arrival.size)

    def _soonest(self) -> float:
        """Return in how many seconds to look again, though nobody may call."""
        now = time.monotonic()
        waits = [arrival.not_before - now for arrival in self.open if arrival.not_before > now]
        return min([*waits, _LONGEST_WAIT_SECONDS])
