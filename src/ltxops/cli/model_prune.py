"""`ltxops models prune`: what no profile wants, listed, and removed with `--yes`."""

import argparse
import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING

from ltxops.cli.model_options import add_options, open_store
from ltxops.cli.output import Subparsers, add_command, emit
from ltxops.errors import BadInput
from ltxops.units import format_bytes

if TYPE_CHECKING:
    from ltxops.models.prune import Findings, Item


def add_verb(verbs: Subparsers) -> None:
    """Add the verb."""
    prune = add_command(
        verbs,
        "prune",
        _prune,
        "List what ltxops placed and no profile wants any more; remove it with --yes.",
        "ltxops models prune --profile vast --root /workspace/ComfyUI/models --yes",
    )
    add_options(manifest=(prune,), root=(prune,), wait=(prune,))
    prune.add_argument(
        "--profile",
        action="append",
        metavar="NAME",
        help="keep what this profile wants; may be given several times, default: every profile",
    )
    prune.add_argument("--yes", action="store_true", help="remove what is listed; without it nothing changes")


def _prune(args: argparse.Namespace) -> int:
    from ltxops.models import lock, overlay
    from ltxops.models.durable import disk_errors_explained
    from ltxops.models.plan import files_of_profiles
    from ltxops.models.prune import find, remove

    wanted = overlay.load(args.manifest)
    names = list(dict.fromkeys(args.profile or wanted.profiles))
    locked = lock.load(wanted)
    store = open_store(args)
    if not store.root.is_dir():
        raise BadInput(f"--root {args.root} is not there; give ComfyUI's models folder")
    # A root without the store's folder holds nothing of ours, and no lock either.
    held = args.yes and store.incoming.is_dir()
    with disk_errors_explained(store.root), contextlib.ExitStack() as stack:
        if held:
            stack.enter_context(store.exclusive(args.wait))
        by_profile, unknown = files_of_profiles(wanted, names, locked, store.ledger.resolved)
        found = find(store, [item for files in by_profile.values() for item in files], unknown)
        gone, freed = remove(store, found) if held else ([], 0)
    result = {
        "ok": True,
        "profiles": names,
        "removed": args.yes,
        "files": [_row(item) for item in (gone if args.yes else found.files) if item.dest is not None],
        "parts": [_row(item) for item in (gone if args.yes else found.parts) if item.dest is None],
        "kept": [asdict(item) for item in found.kept],
        "bytes_freed": freed if args.yes else found.freed,
    }
    emit(args, result, "\n".join(_lines(found, gone, freed, done=args.yes)))
    return 0


def _row(item: "Item") -> dict[str, object]:
    return {"path": item.path, "size": item.size, "links": item.links}


def _lines(found: "Findings", gone: "list[Item]", freed: int, *, done: bool) -> list[str]:
    items = gone if done else [*found.files, *found.parts]
    verb = "removed" if done else "would remove"
    lines = [f"{verb} {format_bytes(item.size):>10}  {item.path}{_note(item)}" for item in items]
    lines += [f"kept {format_bytes(item.size):>10}  {item.path}: {item.reason}" for item in found.kept]
    if not items:
        return [*lines, "nothing to remove"]
    end = f"{format_bytes(freed)} freed" if done else f"{format_bytes(found.freed)} to free; do it with --yes"
    return [*lines, f"{len(items)} files, {end}"]


def _note(item: "Item") -> str:
    return f" (its content has {item.links} names)" if item.links > 1 else ""
