"""When a drain goes on, and when ComfyUI has nothing left to do."""

import time
from pathlib import Path
from typing import Any

import pytest

from ltxops.errors import BadInput
from ltxops.wrapper import drain


def backend(state: str = "up", running: int = 0, remaining: int = 0) -> dict[str, Any]:
    return {"state": state, "running": running, "queue_remaining": remaining}


@pytest.mark.parametrize(
    ("running", "backends", "left"),
    [
        (0, [backend()], 0),
        (1, [backend(running=1, remaining=1)], 1),
        # Its outputs are being put in place.
        (1, [backend()], 1),
        # Sent to ComfyUI directly, to one of two.
        (0, [backend(remaining=3), backend()], 3),
        # What it said last, before it went away.
        (0, [backend("down", remaining=2)], 0),
    ],
)
def test_jobs_of_the_wrapper_and_of_others_count(
    running: int, backends: list[dict[str, Any]], left: int
) -> None:
    assert drain.unfinished({"running": running, "backends": backends}) == left


def test_a_drain_that_nobody_ends_is_over_by_itself(tmp_path: Path) -> None:
    file = tmp_path / drain.NAME
    assert not drain.draining(None)
    assert not drain.draining(file)
    drain.begin(tmp_path, 60)
    assert drain.draining(file)
    assert drain.end(tmp_path)
    assert not drain.end(tmp_path)
    file.write_text(f"{time.time() - 1}\n")
    assert not drain.draining(file)
    file.write_text("a word")
    assert not drain.draining(file)
    with pytest.raises(BadInput, match="--state"):
        drain.begin(tmp_path / "nowhere", 60)
