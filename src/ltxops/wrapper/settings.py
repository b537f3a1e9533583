"""What the jobs of one wrapper are told."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class JobSettings:
    """Where files go, how many jobs may wait, and how long each may take from its arrival on.

    `input_directory` is where ComfyUI takes files from, None when this host does not say. With `retry_lost` a
    job that was lost with its ComfyUI, or with its GPU, is run once more. No job begins with less than
    `min_free_bytes` on the disk of the outputs. `drain_file`: see drain.py.
    """

    output_directory: Path
    max_waiting: int
    deadline_seconds: float
    min_free_bytes: int = 0
    input_directory: Path | None = None
    retry_lost: bool = False
    drain_file: Path | None = None
