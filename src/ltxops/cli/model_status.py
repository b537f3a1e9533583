"""`ltxops models status`: how each weight stands; a table with bars on a terminal, lines elsewhere."""

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from ltxops.cli.model_options import add_options, open_store
from ltxops.cli.output import Subparsers, add_command, emit
from ltxops.units import format_bytes

if TYPE_CHECKING:
    from ltxops.models.overview import Overview, Total

_BAR_CELLS = 20


def add_verb(verbs: Subparsers) -> None:
    """Add the verb."""
    status = add_command(
        verbs,
        "status",
        _status,
        "Show how each weight stands, what each profile still lacks, and the disk.",
        "ltxops models status --root /workspace/ComfyUI/models",
    )
    add_options(manifest=(status,), root=(status,))
    status.add_argument("--profile", metavar="NAME", help="a profile of the manifest, default: all of them")


def _status(args: argparse.Namespace) -> int:
    from ltxops.models import lock, overlay
    from ltxops.models.overview import look
    from ltxops.models.plan import State

    wanted = overlay.load(args.manifest)
    store = open_store(args)
    names = [args.profile] if args.profile is not None else list(wanted.profiles)
    seen = look(store, wanted, names, lock.load(wanted))
    result = {
        "profile": args.profile,
        "root": str(store.root),
        "files": [
            {"model": row.item.model, "dest": row.item.dest, "size": row.item.file.size}
            | {"state": row.state.value, "arrived": row.arrived}
            for row in seen.rows
        ],
        "counts": {state.value: sum(row.state is state for row in seen.rows) for state in State},
        "unresolved": [model.name for model in seen.unknown],
        "unlocked": seen.unlocked,
        "profiles": [asdict(total) for total in seen.totals],
        "bytes_free": seen.free,
    }
    if sys.stdout.isatty() and not args.json:
        _print_table(seen)
    else:
        emit(args, result, "\n".join(_lines(seen)))
    return 0


def _lines(seen: "Overview") -> list[str]:
    lines = [
        f"{row.label:9} {row.percent:3}% {format_bytes(row.item.file.size):>10}  {row.item.dest}"
        for row in seen.rows
    ]
    lines += [
        f"{'unknown':9} {'?':>4} {'?':>10}  {model.dest} ({model.name}: not locked, not fetched yet)"
        for model in seen.unknown
    ]
    return [*lines, *_end(seen)]


def _end(seen: "Overview") -> list[str]:
    there = "" if seen.root.is_dir() else f"; there is no {seen.root} yet"
    return [*(_total(total) for total in seen.totals), f"disk: {format_bytes(seen.free)} free{there}"]


def _total(total: "Total") -> str:
    more = f", not counting what is unknown: {', '.join(total.unresolved)}" if total.unresolved else ""
    return (
        f"profile {total.profile}: {total.files_present} of {total.files} files, "
        f"{format_bytes(total.size_present)} of {format_bytes(total.size)}{more}"
    )


def _print_table(seen: "Overview") -> None:
    from rich import box
    from rich.console import Console
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, side in (("state", "left"), ("", "left"), ("", "right"), ("size", "right")):
        table.add_column(heading, justify=side, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("file", overflow="fold")
    for row in seen.rows:
        bar = ProgressBar(total=max(row.item.file.size, 1), completed=row.arrived, width=_BAR_CELLS)
        size = format_bytes(row.item.file.size)
        table.add_row(row.label, bar, f"{row.percent}%", size, Text(row.item.dest))
    for model in seen.unknown:
        table.add_row(
            "unknown", "", "?", "?", Text(f"{model.dest} ({model.name}: not locked, not fetched yet)")
        )
    console = Console()
    console.print(table)
    for line in _end(seen):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
