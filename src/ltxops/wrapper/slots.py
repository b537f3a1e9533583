"""Who gets which ComfyUI next: jobs wait here, in the order they came, until one is free.

ComfyUI runs one job at a time. It is given one, not two: a job that waited in its queue could not go to
another GPU that is free sooner, and between two jobs lie milliseconds.
"""

import asyncio
from collections.abc import Callable

from ltxops.wrapper.backends import Backend, Backends

JOBS_PER_BACKEND = 1


class Slots:
    """The places in front of the GPUs. `on_move` is called for each job whose place in the queue changes.

    While `held` says so, nobody gets a place.
    """

    def __init__(
        self,
        backends: Backends,
        on_move: Callable[[str, int], None],
        held: Callable[[], bool] = lambda: False,
    ) -> None:
        self._backends = backends
        self._on_move = on_move
        self._held = held
        self._waiting: dict[str, asyncio.Future[Backend]] = {}
        backends.on_change = self.fill

    def __len__(self) -> int:
        return len(self._waiting)

    def position(self, job_id: str) -> int:
        """Return the place of a job among those that wait, from 1; 0 for one that does not."""
        return next((place for place, waiting in enumerate(self._waiting, 1) if waiting == job_id), 0)

    def take_now(self) -> Backend | None:
        """Return a free backend, which is then taken, or None; nobody who waits is overtaken."""
        return None if self._waiting else self._take()

    def occupy(self, backend: Backend) -> None:
        """Count in a job that a backend has already."""
        backend.active += 1

    async def take(self, job_id: str, *, first: bool = False, seconds: float | None = None) -> Backend:
        """Wait for a free backend, which is then taken. `first` is for a job that has waited already.

        Raises asyncio.TimeoutError after `seconds`; None waits for ever.
        """
        place: asyncio.Future[Backend] = asyncio.get_running_loop().create_future()
        others = self._waiting
        self._waiting = {job_id: place, **others} if first else {**others, job_id: place}
        self.fill()
        self._tell()
        try:
            # No time limit around this one: who is cancelled in the moment of its turn gives the place back.
            await asyncio.wait({place}, timeout=seconds)
            if not place.done():
                raise asyncio.TimeoutError
            return place.result()
        except asyncio.CancelledError:
            if place.done():
                self.release(place.result())
            raise
        finally:
            if self._waiting.pop(job_id, None) is not None:
                self._tell()

    def release(self, backend: Backend) -> None:
        """Give a place back."""
        backend.active -= 1
        self.fill()

    def fill(self) -> None:
        """Give free backends to those who wait."""
        moved = False
        while self._waiting and (backend := self._take()) is not None:
            job_id = next(iter(self._waiting))
            self._waiting.pop(job_id).set_result(backend)
            moved = True
        if moved:
            self._tell()

    def _take(self) -> Backend | None:
        free = [one for one in self._backends.usable() if one.active < JOBS_PER_BACKEND]
        if not free or self._held():
            return None
        free[0].active += 1
        return free[0]

    def _tell(self) -> None:
        for place, job_id in enumerate(self._waiting, 1):
            self._on_move(job_id, place)
