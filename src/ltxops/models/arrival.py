"""One file on its way: which bytes are there, which are being fetched, what went wrong. No thread, no I/O.

All methods are called with the board's lock held (see `board`).
"""

import threading
from dataclasses import dataclass, field

from ltxops.errors import IntegrityError, LtxopsError, NetworkError
from ltxops.models.answers import Body, Unlike
from ltxops.models.hub import Hub
from ltxops.models.part import PartFile
from ltxops.models.plan import Wanted
from ltxops.models.proof import Digest
from ltxops.models.ranges import Spans
from ltxops.models.retry import backoff_seconds

_MOST_RESTARTS = 2
_FOLLOW_BYTES = 8 * 1024 * 1024
#: A thread that writes the next bytes hashes them itself when it is not further ahead of the hash than this.
_NEAR_BYTES = 4 * 1024 * 1024


@dataclass(eq=False)
class Task:
    """The bytes from `position` to `end`, asked for by one thread; `new` counts those nobody had brought.

    `hub`, `link` and `round` say how the file stood when the task was given: whom to ask, at which URL (None
    for the hub's own), and how often it had failed.
    """

    arrival: "Arrival"
    position: int
    end: int
    hub: Hub
    link: str | None
    round: int
    new: int = 0


@dataclass(eq=False)
class Arrival:
    """The file `item`, asked of `hubs` in order. `news` wakes the thread that follows it."""

    item: Wanted
    hubs: list[Hub]
    news: threading.Condition
    part: PartFile | None = None
    spans: Spans = field(default_factory=Spans)
    active: list[Task] = field(default_factory=list)
    restarting: bool = False
    #: Whether a thread is hashing; only that one may use `digest` then.
    hashing: bool = False
    digest: Digest = field(init=False)
    #: Bytes that an earlier run left and this one has not proven yet.
    resumed: int = 0
    error: Exception | None = None
    #: Why the first hub was left for the next one.
    given_up: LtxopsError | None = None
    closing: bool = False
    #: Where the hub sent us to, None for the hub itself; known when `settled`.
    link: str | None = None
    settled: bool = False
    #: The server ignores ranges: one connection brings all.
    whole: bool = False
    version: str | None = None
    not_before: float = 0.0
    failures: int = 0
    round: int = 0
    renewals: int = 0
    restarts: int = 0

    def __post_init__(self) -> None:
        self.digest = Digest(self.item.file)

    @property
    def size(self) -> int:
        """The promised size in bytes."""
        return self.item.file.size

    @property
    def alone(self) -> bool:
        """Whether only one thread may work on it for now."""
        return self.whole or not self.settled

    def claimed(self) -> Spans:
        """Return the bytes that are there or that somebody is fetching."""
        claimed = Spans()
        for start, end in self.spans:
            claimed.add(start, end)
        for task in self.active:
            claimed.add(task.position, task.end)
        return claimed

    def open_for(self, now: float) -> bool:
        """Tell whether a task may be given out now."""
        blocked = self.part is None or self.error or self.closing or self.restarting or now < self.not_before
        return not blocked and not (self.alone and self.active)

    def task(self, gap: tuple[int, int], most: int) -> Task:
        """Give out the beginning of `gap`, `most` bytes at most."""
        start, end = gap
        end = end if self.whole else min(end, start + most)
        task = Task(self, start, end, self.hubs[0], self.link, self.round)
        self.active.append(task)
        return task

    def accept(self, task: Task, body: Body, host: str, link: str | None) -> bool:
        """Take a good answer's head; `link` is the URL that answered, None when it was the hub.

        Returns whether to read the body: of a whole file not while others read it, too. Raises Unlike when it
        is of another version than the bytes that are there.
        """
        version = f"{host} {body.version}" if body.version else None
        known = self.version
        if version and known and known.split(" ", 1)[0] == host and known != version:
            # A server that names each answer differently is not believed twice: the hash decides.
            if self.restarts < _MOST_RESTARTS:
                raise Unlike(f"has another version of the file than before (ETag {body.version})")
        elif version and known != version and self.part is not None:
            self.version = version
            self.part.record_source(version)
        if not self.restarting:
            self.link, self.settled = link, True
        self.whole = self.whole or body.whole
        if body.whole and len(self.active) > 1:
            return False
        task.position, task.end = body.start, body.end
        return True

    def missing(self, task: Task, count: int) -> list[tuple[int, int]]:
        """Return which of the next `count` bytes of a task are to be written.

        Bytes that are there stay as they are: they may have been hashed already.
        """
        return list(self.spans.missing(task.position, task.position + count))

    def wrote(self, task: Task, count: int) -> int:
        """Take `count` bytes at the task's position as written; return how many of them were new."""
        new = self.spans.add(task.position, task.position + count)
        task.position += count
        task.new += new
        if new:
            self.failures = self.renewals = 0
        return new

    def failed(self, task: Task, error: LtxopsError, now: float, wait_seconds: float | None) -> None:
        """Take a failure of `task`: ask again later, ask the next hub, or give up with `error`."""
        if task.new or task.round != self.round:
            # Cut off after progress goes on at once; of threads that failed together one speaks for all.
            return
        self.round += 1
        self.failures += 1
        self._forget_link()
        if self.failures >= task.hub.attempts:
            self.give_up(task, error)
            return
        wait = backoff_seconds(task.hub.backoff_seconds, self.failures)
        self.not_before = now + (wait if wait_seconds is None else wait_seconds)

    def give_up(self, task: Task, error: LtxopsError) -> None:
        """Go on with the next hub if there is one, else fail, with what the first hub was given up for."""
        if task.hub is not self.hubs[0]:
            return
        self.given_up = self.given_up or error
        if len(self.hubs) == 1:
            self.error = self.error or self.given_up
            return
        self.hubs = self.hubs[1:]
        self.round += 1
        self.failures = self.renewals = self.restarts = 0
        self._forget_link()

    def link_refused(self, task: Task, reason: str, now: float) -> None:
        """The server behind the hub refused: ask the hub for a new link, a bounded number of times."""
        if task.link != self.link or task.round != self.round:
            return
        self._forget_link()
        self.round += 1
        self.renewals += 1
        if self.renewals > task.hub.attempts:
            item = self.item
            error = NetworkError(
                f"{item.dest}: the server that {task.hub.url} sends us to for {item.repo} {item.file.path} "
                f"{reason}, again and again; try again later or give another hub with --hub: what has "
                "arrived is kept"
            )
            self.give_up(task, error)
        elif self.renewals > 1:
            self.not_before = now + backoff_seconds(task.hub.backoff_seconds, self.renewals - 1)

    def unlike(self, task: Task, reason: str, now: float) -> None:
        """What a server sends is not what it should be: start over, a bounded number of times."""
        if self.restarting or self.error:
            return
        self.restarts += 1
        if self.restarts > _MOST_RESTARTS:
            item = self.item
            error = IntegrityError(
                f"{item.dest}: what {task.hub.url} sent for {item.repo} {item.file.path} was rejected: the "
                f"server {reason}; run again, and if it stays so ask another hub with --hub or check "
                "models.lock.yaml"
            )
            self.give_up(task, error)
        else:
            self.not_before = now + backoff_seconds(task.hub.backoff_seconds, self.restarts)
        self.start_over()

    def start_over(self) -> None:
        """Forget what has arrived as soon as nobody writes any more."""
        self.restarting = True
        self.whole, self.version = False, None
        self._forget_link()
        self._reset_when_idle()

    def ended(self, task: Task) -> None:
        """A thread is done with its task."""
        self.active.remove(task)
        self._reset_when_idle()

    def _forget_link(self) -> None:
        self.link, self.settled = None, False

    def _reset_when_idle(self) -> None:
        if self.restarting and not self.active and not self.hashing and self.part is not None:
            self.part.restart()
            self.spans, self.resumed, self.restarting = Spans(), 0, False
            self.digest.restart()

    def take_hash(self, task: Task) -> bool:
        """Let the thread that has just written for `task` hash, if those are the next bytes or nearly so."""
        if self.hashing or self.restarting or task.position != self.spans.prefix():
            return False
        self.hashing = task.position - self.digest.size <= _NEAR_BYTES
        return self.hashing

    def leave_hash(self) -> None:
        """The thread that hashed is done."""
        self.hashing = False
        self._reset_when_idle()

    def worth_following(self) -> bool:
        """Tell whether nobody hashes and enough bytes wait for it to be worth waking a thread."""
        prefix = self.spans.prefix()
        return not self.hashing and (prefix - self.digest.size >= _FOLLOW_BYTES or prefix == self.size)
