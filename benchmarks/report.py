"""The results as a table for a terminal, as Markdown and as JSON."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import bars
from benchmarks.bars import Bar
from benchmarks.clients import Client
from benchmarks.results import Result, Summary, summarise

_HEADINGS = {
    bars.UNLIMITED: "No limit",
    bars.PACED: "40 MB/s a connection",
    bars.CUT: "Connections cut every 200 MB (at scale 1)",
    bars.WARM: "Second run, everything there",
    bars.WARM_MANIFEST: "Second run, 150 GB in 40 sparse files",
}
_LOG_COLUMNS = 200
_COLUMNS = ("client", "wall s", "on disk s", "CPU s", "peak MB", "verifies", "result")


def heading(scenario: str) -> str:
    """Return a scenario's title for people."""
    return _HEADINGS.get(scenario, f"Fault: {scenario.removeprefix(bars.FAULT)}")


def print_tables(results: Sequence[Result], found: Sequence[Bar]) -> None:
    """Print a table a scenario, one for the faults, and the bars."""
    # A log is read with less or in a browser: there a row is better long than broken.
    console = Console() if sys.stdout.isatty() else Console(width=_LOG_COLUMNS)
    for title, columns, rows in _tables(results, found):
        table = Table(title=title, title_justify="left", title_style="bold")
        for column in columns:
            table.add_column(column, justify="right" if column in _COLUMNS[1:5] else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def as_markdown(results: Sequence[Result], found: Sequence[Bar], facts: dict[str, Any]) -> str:
    """Return the same tables as Markdown, with what they were measured on."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [
        f"{facts['bytes'] / 1e9:.2f} GB in {facts['files']} files, {facts['cpus']} CPUs, {facts['kernel']}, "
        f"hub and CDN on the same machine; {versions}.",
        "",
    ]
    for title, columns, rows in _tables(results, found):
        lines += [f"### {title}", "", _line(columns), _line("---" for _ in columns)]
        lines += [*(_line(row) for row in rows), ""]
    return "\n".join(lines)


def as_json(results: Sequence[Result], found: Sequence[Bar], facts: dict[str, Any]) -> str:
    """Return every run and every bar as one JSON object."""
    document = facts | {
        "results": [result.as_json() for result in results],
        "bars": [{"bar": bar.text, "found": bar.found, "verdict": bar.word} for bar in found],
    }
    return json.dumps(document, indent=1) + "\n"


def facts(clients: Iterable[Client], scale: float, sizes: Sequence[int]) -> dict[str, Any]:
    """Return what was measured on what: sizes, machine, versions, and the load there was before."""
    return {
        "scale": scale,
        "bytes": sum(sizes),
        "files": len(sizes),
        "cpus": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "load_before": os.getloadavg()[0],
        "versions": {"Python": platform.python_version()} | _versions(clients),
    }


def _versions(clients: Iterable[Client]) -> dict[str, str]:
    tools = {client.tool for client in clients if client.tool != sys.executable}
    found = {}
    for tool in sorted(tools):
        arguments = ["version"] if tool.endswith("/hf") else ["--version"]
        answer = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False).stdout
        words = answer.replace("huggingface_hub version:", "").split()
        found[tool.rpartition("/")[2]] = next((word for word in words if word[:1].isdigit()), "unknown")
    return found


def _tables(
    results: Sequence[Result], found: Sequence[Bar]
) -> list[tuple[str, Sequence[str], list[Sequence[str]]]]:
    summaries = summarise(results)
    timed = [item for item in summaries if not item.scenario.startswith(bars.FAULT)]
    tables: list[tuple[str, Sequence[str], list[Sequence[str]]]] = [
        (heading(name), _COLUMNS, [_row(item) for item in timed if item.scenario == name])
        for name in dict.fromkeys(item.scenario for item in timed)
    ]
    if faults := _fault_rows(results):
        clients = list(dict.fromkeys(item.client for item in summaries if item not in timed))
        tables.append(("Faults", ("fault", *clients), faults))
    rows = [(bar.text, bar.found, bar.word) for bar in found]
    return [*tables, ("Bars", ("bar", "found", "verdict"), list(rows))]


def _row(item: Summary) -> Sequence[str]:
    return (
        item.client,
        _seconds(item.seconds),
        _seconds(item.on_disk_seconds),
        f"{item.cpu_seconds:.1f}",
        f"{item.peak_bytes / 1e6:.0f}",
        item.verifies,
        item.failure or "right",
    )


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _fault_rows(results: Sequence[Result]) -> list[Sequence[str]]:
    faults = [result for result in results if result.scenario.startswith(bars.FAULT)]
    rows: dict[str, list[str]] = {}
    for result in faults:
        row = rows.setdefault(result.scenario, [result.scenario.removeprefix(bars.FAULT)])
        row.append(f"{result.verdict()} ({result.seconds:.0f} s)" if result.right else result.verdict())
    return list(rows.values())


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def verdict(found: Sequence[Bar]) -> int:
    """Return the exit code: 1 when a bar was missed."""
    return int(any(bar.held is False for bar in found))
