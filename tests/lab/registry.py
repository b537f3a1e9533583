"""Which labs there are on this machine; kept in /run, which goes with them when the machine restarts."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab.base import REPO

REGISTRY = Path("/run/ltxops-lab")
IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
#: A lab's number is a byte of its addresses.
NUMBERS = range(256)


@dataclass(frozen=True)
class Entry:
    """One lab: its number, from which all its names follow, and the folder with everything of it."""

    number: int
    folder: Path
    checkout: Path
    #: The process that the lab ends with; 0 for one that an operator ends.
    holder: int

    @property
    def abandoned(self) -> bool:
        """Say whether the process that should have taken the lab down is gone."""
        return self.holder != 0 and not Path(f"/proc/{self.holder}").exists()


@contextmanager
def _locked() -> Iterator[None]:
    REGISTRY.mkdir(exist_ok=True)
    with (REGISTRY / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def entries() -> list[Entry]:
    """Return all labs of this machine, also those whose maker has been killed."""
    found = []
    for file in sorted(REGISTRY.glob("*.json")):
        # One may be taken down at this moment.
        with suppress(FileNotFoundError):
            it = json.loads(file.read_text())
            found.append(Entry(int(file.stem), Path(it["folder"]), Path(it["checkout"]), it["holder"]))
    return found


def lowest_free(taken: set[int]) -> int:
    """Return the number for a new lab; raises RuntimeError when every one is taken."""
    for number in NUMBERS:
        if number not in taken:
            return number
    raise RuntimeError(f"{len(NUMBERS)} labs are there already: take one down")


def register(folder: Path, *, held: bool) -> Entry:
    """Enter a lab before anything of it is made; the first one lets this machine pass packets on.

    A lab that is `held` is of no use after this process has ended.
    """
    with _locked():
        known = entries()
        for entry in known:
            if entry.folder == folder:
                return entry
        if not known:
            (REGISTRY / "ip_forward").write_text(IP_FORWARD.read_text())
            IP_FORWARD.write_text("1")
        holder = os.getpid() if held else 0
        entry = Entry(lowest_free({one.number for one in known}), folder, REPO, holder)
        content = json.dumps({"folder": str(folder), "checkout": str(REPO), "holder": holder})
        part = REGISTRY / f"{entry.number}.part"
        part.write_text(content)
        part.rename(REGISTRY / f"{entry.number}.json")
        return entry


def forget(entry: Entry) -> None:
    """Strike a lab of which nothing is left; with the last one this machine is as it was found."""
    with _locked():
        (REGISTRY / f"{entry.number}.json").unlink(missing_ok=True)
        before = REGISTRY / "ip_forward"
        if not entries() and before.exists():
            IP_FORWARD.write_text(before.read_text())
            before.unlink()
