"""Whether the disk of the outputs has room for one more job: a result that cannot be saved is not begun."""

import asyncio
from pathlib import Path

from ltxops.upkeep.disk import free_bytes, shortage
from ltxops.wrapper.schema import DiskHealth


class Room:
    """The disk of `directory`. Below `floor_bytes` nothing new begins."""

    def __init__(self, directory: Path, floor_bytes: int) -> None:
        self._directory = directory
        self._floor_bytes = floor_bytes

    async def look(self) -> DiskHealth:
        """Return how the disk stands now; a disk that cannot be asked has no room."""
        place = str(self._directory)
        try:
            # In a thread: the disk may be a network's that hangs.
            free = await asyncio.to_thread(free_bytes, place)
        except OSError as error:
            why = f"the free space of {place} cannot be asked ({error.strerror}); look at that folder"
            return DiskHealth(free_bytes=None, min_free_bytes=self._floor_bytes, error=why)
        why = shortage(place, free, self._floor_bytes)
        return DiskHealth(free_bytes=free, min_free_bytes=self._floor_bytes, error=why or None)
