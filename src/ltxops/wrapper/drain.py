"""A host that is drained takes no new job and gives ComfyUI none that wait, so that ComfyUI can be replaced.

A file in the wrapper's state folder says until when: a drain that nobody ends is over by itself, and one goes
on when the wrapper is restarted meanwhile.
"""

import json
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

from ltxops.errors import BadInput, CheckFailed
from ltxops.wrapper.backends import PROBE_SECONDS, PROBE_TIMEOUT_SECONDS

NAME = "drain"
#: The wrapper knows what others sent to ComfyUI as of its last look, so nothing to do must last for longer.
IDLE_SECONDS = PROBE_SECONDS + 1.0
_POLL_SECONDS = 0.5
_ANSWER_SECONDS = 2 * PROBE_TIMEOUT_SECONDS


def draining(file: Path | None) -> bool:
    """Tell whether the drain that `file` holds goes on; without a file, or one that is no time, none does."""
    if file is None:
        return False
    try:
        return time.time() < float(file.read_text())
    except (OSError, ValueError):
        return False


def begin(state: Path, hold_seconds: float) -> None:
    """Begin a drain of the wrapper with this state folder, which ends by itself after `hold_seconds`.

    Raises BadInput when the folder cannot be written to.
    """
    file = state / NAME
    part = file.with_suffix(".part")
    try:
        part.write_text(f"{time.time() + hold_seconds:.0f}\n")
        part.replace(file)
    except OSError as error:
        raise BadInput(
            f"{file} cannot be written ({error}): give --state the wrapper's state folder"
        ) from None


def end(state: Path) -> bool:
    """End the drain; returns whether there was one. Raises BadInput when the file cannot be removed."""
    file = state / NAME
    was = draining(file)
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"{file} cannot be removed ({error}): run this as the wrapper's user") from None
    return was


def unfinished(info: dict[str, Any]) -> int:
    """Return how many jobs ComfyUI has by an answer of `/queue-info`, those of others included."""
    answering = [it for it in info["backends"] if it["state"] in ("up", "slow")]
    there = [max(int(it["running"]), int(it["queue_remaining"])) for it in answering]
    return max(int(info["running"]), sum(there))


def wait(url: str, timeout_seconds: float, say: Callable[[str], None]) -> int:
    """Wait until ComfyUI has no job any more; returns how many it still has when the time is over.

    `url` is the wrapper's. Raises CheckFailed when that does not answer.
    """
    deadline = time.monotonic() + timeout_seconds
    idle_since: float | None = None
    said = -1
    while True:
        count, now = unfinished(_ask(url)), time.monotonic()
        if count != said:
            said = count
            say(f"{count} jobs are with ComfyUI")
        if count:
            idle_since = None
            if now >= deadline:
                return count
        elif idle_since is None:
            idle_since = now
        elif now - idle_since >= IDLE_SECONDS:
            return 0
        time.sleep(_POLL_SECONDS)


def _ask(url: str) -> dict[str, Any]:
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(f"{url.rstrip('/')}/queue-info", timeout=_ANSWER_SECONDS) as answer:
            info: dict[str, Any] = json.load(answer)
    except (OSError, ValueError, HTTPException) as error:
        raise CheckFailed(
            f"the wrapper at {url} does not answer ({error}): see its log, and start it"
        ) from None
    return info
