"""The cleaner against `find` on the same tree, in one run: a million files in ten thousand folders.

    sudo .venv/bin/python benchmarks/cleanup.py            # on an ext4 image of its own
    .venv/bin/python benchmarks/cleanup.py --dir /mnt/big  # on the file system of a folder

Prints the ratios with pass or MISSED; exit 1 when one was missed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
#: A cleaner may take so many times what `find` takes, and so much memory.
DELETING, LOOKING, PEAK_BYTES = 1.6, 2.5, 64 * MIB
#: Every tree is measured so often; the best time counts, since other load only ever adds to it.
ROUNDS = 3


@dataclass(frozen=True)
class Run:
    """One command: wall clock in seconds, peak resident memory in bytes."""

    seconds: float
    peak_bytes: int


def measure(command: list[str]) -> Run:
    """Run a command to its end. Its peak memory is the kernel's count (getrusage(2), ru_maxrss)."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{command} failed with {child.returncode}")
    return Run(seconds, usage.ru_maxrss * 1024)


def make_tree(root: Path, folders: int, files: int) -> None:
    """Fill `root` with small files and write them to the disk, so that nothing of it is left to be done."""
    root.mkdir()
    (root / ".ltxops-output").touch()
    for number in range(folders):
        folder = root / f"req-{number:05}"
        folder.mkdir()
        fd = os.open(folder, os.O_DIRECTORY)
        for index in range(files // folders):
            file = os.open(f"LTX-2_{index:05}_.mp4", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
            os.write(file, b"v" * 100)
            os.close(file)
        os.close(fd)
    subprocess.run(["sync", "-f", str(root)], check=True)


def cleaner(root: Path, age: str, *options: str) -> list[str]:
    """Return the command of the cleaner as an operator gives it."""
    command = [sys.executable, "-m", "ltxops.cli.main", "clean", "ttl", "--dir", str(root)]
    return [*command, "--older-than", age, "--json", *options]


def looking(root: Path) -> tuple[Run, Run]:
    """Let both look at every file's age and delete nothing; `find` first and last, its better time counts."""
    find = ["find", str(root), "-type", "f", "-mmin", "+60", "-cmin", "+60"]
    measure(find)
    others: list[Run] = []
    ours: list[Run] = []
    for _ in range(ROUNDS):
        others.append(measure(find))
        ours.append(measure(cleaner(root, "1h")))
    return best(others), best(ours)


def deleting(root: Path, folders: int, files: int) -> tuple[Run, Run]:
    """Let each delete a tree of its own, made just before in the same place."""
    others: list[Run] = []
    ours: list[Run] = []
    find = ["find", str(root), "-mindepth", "1", "-mmin", "+0", "-cmin", "+0", "-delete"]
    for _ in range(ROUNDS):
        for command, runs in ((find, others), (cleaner(root, "1s"), ours)):
            if not root.exists():
                make_tree(root, folders, files)
            time.sleep(1.1)
            runs.append(measure(command))
            left = sum(len(names) for _, _, names in os.walk(root))
            if left > 1:
                raise SystemExit(f"{command[0]} left {left} files")
            subprocess.run(["rm", "-rf", str(root)], check=True)
            subprocess.run(["sync", "-f", str(root.parent)], check=True)
    return best(others), best(ours)


def best(runs: list[Run]) -> Run:
    """Return the fastest time, and the highest memory of any run."""
    return Run(min(run.seconds for run in runs), max(run.peak_bytes for run in runs))


@contextmanager
def place(folder: str | None, files: int) -> Iterator[Path]:
    """Give a folder to work in: below `folder`, or on an ext4 image that is mounted for this run."""
    if folder is not None:
        with tempfile.TemporaryDirectory(dir=folder) as below:
            yield Path(below)
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        image, mountpoint = Path(memory) / "image", Path(memory) / "disk"
        mountpoint.mkdir()
        with image.open("wb") as file:
            file.truncate(files * 2048 + 256 * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-b", "1024", "-N", str(files + 50_000), str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(mountpoint)], check=True)
        try:
            yield mountpoint
        finally:
            subprocess.run(["umount", str(mountpoint)], check=True)


def told(what: str, found: float, limit: float, text: str) -> bool:
    """Print one line; returns whether the limit was kept."""
    passed = found <= limit
    print(f"{what:<28} {text}   {'pass' if passed else 'MISSED'}")
    return passed


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dir", help="work below this folder instead of on an ext4 image (which needs root)")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--folders", type=int, default=10_000)
    args = parser.parse_args()
    with place(args.dir, args.files) as folder:
        root = folder / "output"
        print(f"{args.files} files in {args.folders} folders; the best of {ROUNDS} runs each")
        make_tree(root, args.folders, args.files)
        find_look, our_look = looking(root)
        find_delete, our_delete = deleting(root, args.folders, args.files)
    peak = max(our_look.peak_bytes, our_delete.peak_bytes)
    results = [
        told(*ratio("look, nothing to delete", find_look, our_look, LOOKING)),
        told(*ratio("delete everything", find_delete, our_delete, DELETING)),
        told("peak memory", peak, PEAK_BYTES, f"{peak / MIB:.1f} MiB, at most {PEAK_BYTES // MIB} MiB"),
    ]
    return 0 if all(results) else 1


def ratio(what: str, find: Run, ours: Run, limit: float) -> tuple[str, float, float, str]:
    """Return what `told` takes for two times."""
    found = ours.seconds / find.seconds
    text = f"find {find.seconds:.2f} s, ltxops {ours.seconds:.2f} s: {found:.2f} x, at most {limit} x"
    return what, found, limit, text


if __name__ == "__main__":
    sys.exit(main())
