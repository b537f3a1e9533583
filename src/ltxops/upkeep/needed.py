"""Which outputs does the wrapper still need? Asked once a run; without a wrapper, age alone decides."""

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ltxops.errors import LtxopsError
from ltxops.upkeep.output_root import FileKey, OutputRoot, file_key

#: Beyond this age an output is nobody's any more, whatever the wrapper's database says.
CAP_SECONDS = 24 * 3600
#: So long after its job's end a result that nobody has fetched is kept.
GRACE_SECONDS = 3600


class Question(Protocol):
    """Returns every name of the files that must not be deleted yet; raises LtxopsError when nobody knows."""

    def __call__(self, database_path: Path, *, grace_seconds: float) -> Collection[Path]: ...


def nothing_is_needed(database_path: Path, *, grace_seconds: float) -> Collection[Path]:
    """Answer for a host without a wrapper."""
    return ()


@dataclass(frozen=True)
class Wrapper:
    """Where the wrapper keeps its jobs, and how long they protect their outputs."""

    database: Path
    question: Question = nothing_is_needed
    grace_seconds: int = GRACE_SECONDS
    cap_seconds: int = CAP_SECONDS


@dataclass
class Needed:
    """The answer for one run. A file is known by its inode, so that each of its names is protected."""

    keys: set[FileKey] = field(default_factory=set)
    everything: bool = False
    """Nobody could say, so everything is needed until the cap."""
    cap_ns: int = 0
    """What changed last at or before this time is not needed, whatever the wrapper says."""
    problem: str = ""

    def __bool__(self) -> bool:
        return self.everything or bool(self.keys)

    def keeps(self, key: FileKey, changed_ns: int) -> bool:
        """Tell whether a file that changed last at `changed_ns` must stay."""
        return (self.everything or key in self.keys) and changed_ns > self.cap_ns


def ask(wrapper: Wrapper | None, root: OutputRoot, now_ns: int) -> Needed:
    """Ask the wrapper. It not answering is a problem of the report, and nothing younger than the cap goes."""
    if wrapper is None:
        return Needed()
    cap_ns = now_ns - wrapper.cap_seconds * 1_000_000_000
    try:
        paths = wrapper.question(wrapper.database, grace_seconds=wrapper.grace_seconds)
    except LtxopsError as error:
        return Needed(everything=True, cap_ns=cap_ns, problem=str(error))
    keys = {key for path in paths for key in _keys(path, root)}
    return Needed(keys, cap_ns=cap_ns)


def _keys(path: Path, root: OutputRoot) -> list[FileKey]:
    """Return the file that a name means, and the link itself where it is one."""
    found = []
    for follow in (False, True):
        try:
            found.append(file_key(os.stat(path, dir_fd=root.fd, follow_symlinks=follow)))
        except OSError:
            continue  # gone
    return found
