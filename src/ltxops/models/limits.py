"""How hard a fetch tries."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Connections at most, and the seconds after which a silent server has stalled."""

    connections: int = 32
    stall_seconds: float = 30.0
