"""What a sync did, told when it has ended."""

from dataclasses import dataclass, field


@dataclass
class Report:
    """What was done, as destinations; `present` counts the files that needed nothing."""

    fetched: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    present: int = 0
    bytes_fetched: int = 0
    seconds: float = 0.0
