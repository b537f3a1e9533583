"""How a fetch tries, and how hard."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Connections at most, seconds after which a silent server has stalled, and whether Xet comes first."""

    connections: int = 32
    stall_seconds: float = 30.0
    xet: bool = False
