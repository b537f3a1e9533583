"""`ltxops models lock`: pins what the hub has, or says how the lock has drifted from it."""

import argparse
from typing import TYPE_CHECKING

from ltxops.cli.model_options import add_options, hub_maker
from ltxops.cli.output import Subparsers, add_command, emit, log
from ltxops.errors import CheckFailed

if TYPE_CHECKING:
    from ltxops.models.drift import Change


def add_verb(verbs: Subparsers) -> None:
    """Add the verb."""
    lock = add_command(
        verbs,
        "lock",
        _lock,
        "Write revision, size and sha256 from the hub to the lock, and show what changed.",
        "ltxops models lock --check",
    )
    add_options(manifest=(lock,), hub=(lock,), jobs=(lock,))
    lock.add_argument("--profile", metavar="NAME", help="only the models of this profile, default: all")
    lock.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit code 1 and every difference when the lock is not what the hub has",
    )


def _lock(args: argparse.Namespace) -> int:
    from ltxops.models import lock, overlay
    from ltxops.models.drift import changes
    from ltxops.models.sync import resolve

    wanted = overlay.load(args.manifest)
    models = wanted.profile(args.profile) if args.profile else list(wanted.models.values())
    before = lock.load(wanted, fitting=False)
    lock.require_direct(wanted, before)
    leftovers = lock.leftovers(wanted)
    found = resolve([model for model in models if model.repo], hub_maker(args)(), args.jobs)
    drift = changes({name: entry for name, entry in before.items() if name in found}, found)
    if not args.check:
        # Entries of other profiles stay, unless they no longer fit the manifest.
        entries = ((name, entry) for name, entry in (before | found).items() if name in wanted.models)
        lock.save_both(wanted, {name: entry for name, entry in entries if entry.fits(wanted.models[name])})
    return _report(args, list(found), drift, [str(path) for path in lock.lock_paths(wanted)], leftovers)


def _report(
    args: argparse.Namespace,
    found: list[str],
    drift: "list[Change]",
    paths: list[str],
    leftovers: list[str],
) -> int:
    same = not drift and not leftovers
    lines = [line for change in drift for line in change.lines()]
    lines += [f"removed  {name}\n  not in the manifest (any more)" for name in leftovers]
    result = {
        "ok": same or not args.check,
        "lock": paths[0],
        "locked": [] if args.check else found,
        "changed": [change.model for change in drift],
        "removed": leftovers,
        "changes": [change.as_json() for change in drift],
    }
    names = ", ".join([*(change.model for change in drift), *leftovers])
    if args.check and not same:
        error = f"{paths[0]} differs from the hub: {names}; run `ltxops models lock` and review the change"
        log(f"ltxops: {error}")
        emit(args, result | {"error": error, "exit_code": CheckFailed.exit_code}, "\n".join(lines))
        return CheckFailed.exit_code
    what = "is what the hub has" if args.check else f"changed: {names or 'none'}"
    emit(args, result, "\n".join([*lines, f"{paths[0]}: {len(found)} models looked up, {what}"]))
    return 0
