"""`python -m tests.lab`: hosts to play with, provisioned over SSH as real ones are. See docs/lab.md."""

import argparse
import os
import sys
from pathlib import Path

import yaml
from tests.lab import registry
from tests.lab.base import REPO
from tests.lab.lab import Lab, take_down, why_not

#: It lies on a file system that overlays can be laid on.
FOLDER = Path(os.environ.get("LTXOPS_LAB_DIR") or REPO / ".test/lab")


def existing() -> Lab | None:
    """Return the operator's lab, if one was made whole."""
    known = [entry for entry in registry.entries() if entry.folder == FOLDER]
    return Lab(known[0]) if known and (FOLDER / "hosts.json").exists() else None


def up(count: int, workspace_mib: int, gpus: int) -> None:
    """Have `count` hosts run: those that there are, and new ones."""
    lab = existing() or Lab.make(FOLDER, held=False)
    for host in lab.hosts.values():
        if not host.runs():
            host.start()
    for number in range(len(lab.hosts) + 1, count + 1):
        lab.add(f"lab-{number}", workspace_mib=workspace_mib, gpus=gpus)
    for host in lab.hosts.values():
        print(
            f"{host.name}: ssh -i {host.key} -o UserKnownHostsFile={host.known_hosts} operator@{host.address}"
        )


def down() -> None:
    """Take down the operator's lab, and those that killed tests of this checkout have left."""
    for entry in registry.entries():
        if entry.folder == FOLDER or (entry.checkout == REPO and entry.abandoned):
            take_down(entry)


def inventory() -> None:
    """Print the inventory of the lab's hosts."""
    lab = existing()
    if lab is None:
        raise RuntimeError("there is no lab: python -m tests.lab up 1")
    print(yaml.safe_dump(lab.inventory(), sort_keys=False), end="")


def main() -> int:
    """Parse, do it, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("up", help="have so many hosts run")
    make.add_argument("count", type=int, help="how many hosts")
    make.add_argument("--workspace-mib", type=int, default=0, help="give new hosts a /workspace of this size")
    make.add_argument(
        "--gpus", type=int, default=0, help="give new hosts an nvidia-smi that shows so many GPUs"
    )
    verbs.add_parser("down", help="end and remove all of it")
    verbs.add_parser("inventory", help="print the inventory of the lab's hosts")
    args = parser.parse_args()
    if reason := why_not():
        print(reason, file=sys.stderr)
        return 1
    try:
        if args.verb == "up":
            up(args.count, args.workspace_mib, args.gpus)
        elif args.verb == "down":
            down()
        else:
            inventory()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
