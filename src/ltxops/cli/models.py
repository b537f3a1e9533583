"""Commands of the noun models: what a profile's weights are, whether they are there, and getting them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltxops.cli.model_options import add_options, hub_maker, known_files, read_inputs, sync_command
from ltxops.cli.output import Subparsers, add_command, emit, log
from ltxops.errors import CheckFailed, IntegrityError
from ltxops.units import format_bytes

if TYPE_CHECKING:
    from ltxops.models.plan import State, Wanted


def register(nouns: Subparsers) -> None:
    """Add `ltxops models` and its verbs."""
    parser = nouns.add_parser("models", help="weights: what a profile needs, fetched and proven")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    example = "ltxops models {} --profile vast --root /workspace/ComfyUI/models"

    plan = add_command(
        verbs,
        "plan",
        _plan,
        "Say what sync would do; exit code 4 when the disk is too small.",
        example.format("plan"),
    )
    sync = add_command(
        verbs, "sync", _sync, "Bring a profile's weights to a folder, proven.", example.format("sync")
    )
    verify = add_command(
        verbs,
        "verify",
        _verify,
        "Check that every weight is there and unchanged.",
        example.format("verify --deep"),
    )
    status = add_command(verbs, "status", _status, "Show how each weight stands.", example.format("status"))
    listing = add_command(
        verbs, "list", _list, "List a profile's files; uses no network.", "ltxops models list --profile vast"
    )
    lock = add_command(
        verbs,
        "lock",
        _lock,
        "Write revision, size and sha256 from the hub to the lock.",
        "ltxops models lock",
    )
    add_options(
        manifest=(plan, sync, verify, status, listing, lock),
        profile=(plan, sync, verify, status, listing),
        root=(plan, sync, verify, status),
        hub=(plan, sync, lock),
        jobs=(plan, sync, verify, lock),
        disk=(plan, sync),
    )
    lock.add_argument("--profile", metavar="NAME", help="lock only the models of this profile, default: all")
    sync.add_argument(
        "--wait",
        type=float,
        default=0,
        metavar="SECONDS",
        help="how long to wait for another run on this root",
    )
    sync.add_argument(
        "--events", action="store_true", help="with --json: JSON lines on stdout as things happen, too"
    )
    sync.add_argument(
        "--progress-file", type=Path, metavar="FILE", help="keep a small JSON file that tells how far it is"
    )
    verify.add_argument("--deep", action="store_true", help="hash every file")


def _plan(args: argparse.Namespace) -> int:
    from ltxops.errors import DiskFull
    from ltxops.models.plan import State
    from ltxops.models.store import Store
    from ltxops.models.sync import make_plan

    models, locked = read_inputs(args)
    store = Store(args.root)
    plan = make_plan(store, models, locked, hub=hub_maker(args), reserve_bytes=args.reserve, jobs=args.jobs)
    short = plan.space.short
    present = sum(state is State.PRESENT for _, state in plan.files)
    result = {
        "ok": not short,
        "profile": args.profile,
        "files": _rows(plan.files),
        "present": present,
        "bytes_to_fetch": plan.space.needed,
        "bytes_free": plan.space.free,
        "bytes_reserve": plan.space.reserve,
        "bytes_short": short,
    }
    lines = [f"{state.value:9} {format_bytes(item.file.size):>10}  {item.dest}" for item, state in plan.files]
    verdict = plan.space.describe(str(store.root))
    emit(args, result, "\n".join([*lines, f"{present} of {len(lines)} files present", verdict]))
    if short:
        log(f"ltxops: {verdict}")
    return DiskFull.exit_code if short else 0


def _sync(args: argparse.Namespace) -> int:
    from ltxops.models.progress import showing
    from ltxops.models.store import Store
    from ltxops.models.sync import sync

    args.json = args.json or args.events
    with showing(events=args.events, progress_file=args.progress_file) as show:
        models, locked = read_inputs(args)
        report = sync(
            Store(args.root),
            models,
            locked,
            hub=hub_maker(args),
            reserve_bytes=args.reserve,
            jobs=args.jobs,
            wait_seconds=args.wait,
            show=show,
        )
    text = (
        f"profile {args.profile}: {len(report.fetched)} files fetched "
        f"({format_bytes(report.bytes_fetched)}), "
        f"{len(report.adopted)} adopted, {report.present} were present; all proven, {report.seconds:.1f} s"
    )
    emit(args, {"ok": True, "profile": args.profile, **vars(report)}, text)
    return 0


def _verify(args: argparse.Namespace) -> int:
    from ltxops.models.sync import verify

    store, files = known_files(args)
    missing, bad = verify(store, files, deep=args.deep, jobs=args.jobs)
    if bad or missing:
        found = "; ".join([*bad, *missing])
        raise (IntegrityError if bad else CheckFailed)(
            f"under {store.root}: {found}; run {sync_command(args)}"
        )
    how = "hashed and right" if args.deep else "present and unchanged since they were proven"
    result = {"ok": True, "profile": args.profile, "files": len(files), "deep": args.deep}
    emit(args, result, f"profile {args.profile}: {len(files)} files {how}")
    return 0


def _status(args: argparse.Namespace) -> int:
    from ltxops.models.lock import missing_from
    from ltxops.models.plan import State, wanted_files
    from ltxops.models.store import Store

    models, locked = read_inputs(args)
    store = Store(args.root)
    files, unknown = wanted_files(models, locked, store.ledger.resolved)
    states = store.inspect(files)
    counts = {state.value: sum(found is state for _, found in states) for state in State}
    result = {
        "profile": args.profile,
        "root": str(store.root),
        "files": _rows(states),
        "counts": counts,
        "unresolved": [model.name for model in unknown],
        "unlocked": missing_from(models, locked),
    }
    lines = [f"{state.value:9} {format_bytes(item.file.size):>10}  {item.dest}" for item, state in states]
    lines += [
        f"{'unknown':9} {'?':>10}  {model.dest} ({model.name}: not locked, not fetched yet)"
        for model in unknown
    ]
    emit(args, result, "\n".join(lines))
    return 0


def _list(args: argparse.Namespace) -> int:
    from ltxops.models.lock import missing_from

    models, locked = read_inputs(args)
    rows: list[dict[str, Any]] = []
    for model in models:
        entry = locked.get(model.name)
        common = {"model": model.name, "repo": model.repo, "gated": model.gated}
        if entry is not None:
            rows += [
                common
                | {"path": file.path, "dest": model.destination(file.path), "size": file.size}
                | {"sha256": file.sha256, "revision": entry.revision}
                for file in entry.files
            ]
            continue
        rows += [
            common
            | {
                "path": path,
                "dest": model.destination(path),
                "size": None,
                "sha256": None,
                "revision": model.revision,
            }
            for path in ([model.file] if model.file is not None else model.files)
        ]
    unlocked = missing_from(models, locked)
    total = sum(row["size"] or 0 for row in rows)
    lines = [
        f"{format_bytes(row['size']) if row['size'] is not None else '?':>10}  {row['dest']}" for row in rows
    ]
    lines.append(
        f"{format_bytes(total):>10}  in all"
        + (f", not counting what is not locked: {', '.join(unlocked)}" if unlocked else "")
    )
    emit(
        args,
        {"profile": args.profile, "files": rows, "total_bytes": total, "unlocked": unlocked},
        "\n".join(lines),
    )
    return 0


def _lock(args: argparse.Namespace) -> int:
    from ltxops.models import lock, manifest
    from ltxops.models.sync import resolve

    wanted = manifest.load(args.manifest)
    models = wanted.profile(args.profile) if args.profile else list(wanted.models.values())
    path = lock.lock_path(args.manifest)
    # Entries of other profiles stay, unless they no longer fit the manifest: those are what this command
    # renews.
    kept = {name: entry for name, entry in lock.load(wanted, fitting=False).items() if name in wanted.models}
    found = resolve(models, hub_maker(args)(), args.jobs)
    merged = {name: entry for name, entry in (kept | found).items() if entry.fits(wanted.models[name])}
    changed = [name for name, entry in found.items() if kept.get(name) != entry]
    lock.save(path, merged, wanted)
    result = {"ok": True, "lock": str(path), "locked": list(found), "changed": changed}
    emit(args, result, f"{path}: {len(found)} models locked, changed: {', '.join(changed) or 'none'}")
    return 0


def _rows(states: "list[tuple[Wanted, State]]") -> list[dict[str, Any]]:
    return [
        {"model": item.model, "dest": item.dest, "size": item.file.size, "state": state.value}
        for item, state in states
    ]
