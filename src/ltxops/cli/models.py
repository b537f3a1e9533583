"""Commands of the noun models: what a profile's weights are, whether they are there, and getting them."""

import argparse
import os
import time
from pathlib import Path
from typing import Any

from ltxops.cli import model_add, model_lock, model_prune, model_status
from ltxops.cli.model_options import (
    add_options,
    hub_maker,
    known_files,
    open_store,
    read_inputs,
    reserve_bytes,
    state_rows,
    sync_command,
)
from ltxops.cli.output import Subparsers, add_command, emit, log
from ltxops.errors import CheckFailed, IntegrityError
from ltxops.units import format_bytes


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
    listing = add_command(
        verbs, "list", _list, "List a profile's files; uses no network.", "ltxops models list --profile vast"
    )
    add_options(
        manifest=(plan, sync, verify, listing),
        profile=(plan, sync, verify, listing),
        root=(plan, sync, verify),
        hub=(plan, sync),
        jobs=(plan, sync, verify),
        network=(sync,),
        disk=(plan, sync),
        lock=(plan, sync),
        wait=(sync,),
    )
    plan.add_argument(
        "--rate", metavar="RATE", help="for the estimate, such as 100MB/s; default: that of the last sync"
    )
    sync.add_argument(
        "--events", action="store_true", help="with --json: JSON lines on stdout as things happen, too"
    )
    sync.add_argument(
        "--progress-file", type=Path, metavar="FILE", help="keep a small JSON file that tells how far it is"
    )
    verify.add_argument("--deep", action="store_true", help="hash every file; removes nothing")
    verify.set_defaults(jobs=os.cpu_count() or 1)
    for add_verb in (model_status.add_verb, model_lock.add_verb, model_add.add_verb, model_prune.add_verb):
        add_verb(verbs)


def _plan(args: argparse.Namespace) -> int:
    from ltxops.errors import DiskFull
    from ltxops.models import rate
    from ltxops.models.plan import State
    from ltxops.models.sync import make_plan

    chosen = rate.parse(args.rate) if args.rate is not None else None
    reserve = reserve_bytes(args)
    _, models, locked = read_inputs(args)
    store = open_store(args)
    speed = chosen or rate.known(store.state)
    plan = make_plan(store, models, locked, hub=hub_maker(args), reserve_bytes=reserve, jobs=args.jobs)
    short = plan.space.short
    present = sum(state is State.PRESENT for _, state in plan.files)
    result: dict[str, Any] = {
        "ok": not short,
        "profile": args.profile,
        "files": state_rows(plan.files),
        "present": present,
        "bytes_to_fetch": plan.space.needed,
        "bytes_free": plan.space.free,
        "bytes_reserve": plan.space.reserve,
        "bytes_short": short,
        "seconds_estimated": round(speed.seconds(plan.space.needed), 1),
        "bytes_per_second": round(speed.bytes_per_second),
        "rate_from": speed.source,
    }
    lines = [f"{state.value:9} {format_bytes(item.file.size):>10}  {item.dest}" for item, state in plan.files]
    lines.append(f"{present} of {len(lines)} files present")
    if plan.space.needed:
        lines.append(f"to fetch: {format_bytes(plan.space.needed)}, {speed.estimate(plan.space.needed)}")
    verdict = plan.space.describe(str(store.root))
    if short:
        log(f"ltxops: {verdict}")
        result |= {"error": verdict, "exit_code": DiskFull.exit_code}
    emit(args, result, "\n".join([*lines, verdict]))
    return DiskFull.exit_code if short else 0


def _sync(args: argparse.Namespace) -> int:
    from ltxops.models import rate
    from ltxops.models.limits import Limits
    from ltxops.models.progress import showing
    from ltxops.models.store import Store
    from ltxops.models.sync import sync

    args.json = args.json or args.events
    with showing(events=args.events, progress_file=args.progress_file) as show:
        reserve = reserve_bytes(args)
        wanted, models, locked = read_inputs(args)
        store = Store(args.root)
        report = sync(
            store,
            models,
            locked,
            hub=hub_maker(args),
            reserve_bytes=reserve,
            jobs=args.jobs,
            wait_seconds=args.wait,
            show=show,
            limits=Limits(connections=args.connections, xet=args.xet),
            still_wanted=wanted.models.values(),
        )
    rate.record(store.state, report.bytes_fetched, report.seconds)
    text = (
        f"profile {args.profile}: {len(report.fetched)} files fetched "
        f"({format_bytes(report.bytes_fetched)}), "
        f"{len(report.shared)} shared, {len(report.cached)} from the Hugging Face cache, "
        f"{len(report.adopted)} adopted, {report.present} were present; all proven, {report.seconds:.1f} s"
    )
    emit(args, {"ok": True, "profile": args.profile, **vars(report)}, text)
    return 0


def _verify(args: argparse.Namespace) -> int:
    from ltxops.models.progress import showing
    from ltxops.models.verify import verify, verify_deep

    store, files = known_files(args)
    begin = time.monotonic()
    if args.deep:
        with showing() as show:
            verdict = verify_deep(store, files, jobs=args.jobs, show=show)
    else:
        verdict = verify(store, files)
    seconds = time.monotonic() - begin
    ok = not verdict.bad and not verdict.missing
    result: dict[str, Any] = {"ok": ok, "profile": args.profile, "files": len(files), "deep": args.deep}
    result |= {"seconds": round(seconds, 3), "bytes_hashed": verdict.bytes_hashed}
    if not ok:
        found = "; ".join([*verdict.bad, *verdict.missing])
        failure = (IntegrityError if verdict.bad else CheckFailed)(
            f"under {store.root}: {found}; run {sync_command(args)}"
        )
        log(f"ltxops: {failure}")
        result |= {"error": str(failure), "exit_code": failure.exit_code}
        result |= {"bad": verdict.bad, "missing": verdict.missing}
        emit(args, result, "\n".join([*verdict.bad, *verdict.missing]))
        return failure.exit_code
    how = "present and unchanged since they were proven"
    if args.deep:
        how = f"hashed and right ({format_bytes(verdict.bytes_hashed)} in {seconds:.1f} s)"
    emit(args, result, f"profile {args.profile}: {len(files)} files {how}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from ltxops.models.lock import missing_from

    _, models, locked = read_inputs(args)
    rows: list[dict[str, Any]] = []
    for model in models:
        entry = locked.get(model.name)
        common = {"model": model.name, "repo": model.source, "gated": model.gated}
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
