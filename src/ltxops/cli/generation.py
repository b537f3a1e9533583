"""Commands of the noun generation: `smoke`, the proof that a host generates, and `gate`, the import gate."""

import argparse
from pathlib import Path
from typing import Any

from ltxops.cli.output import Subparsers, add_command, emit, log
from ltxops.cli.token import read_token
from ltxops.errors import BadInput

#: Options of `smoke` that set a workflow's parameter of the same name.
_NUMBERS = {
    "width": int,
    "height": int,
    "length": int,
    "frame_rate": float,
    "seed": int,
    "steps": int,
    "cfg": float,
}
_TEXTS = ("prompt", "negative_prompt")
_UNITS = {"width": "pixels", "height": "pixels", "length": "frames", "frame_rate": "frames a second"}


def register(nouns: Subparsers) -> None:
    """Add this noun's verbs."""
    _add_smoke(nouns)
    _add_gate(nouns)


def _add_smoke(nouns: Subparsers) -> None:
    parser = add_command(
        nouns,
        "smoke",
        run_smoke,
        "prove that a host generates: one short video through the gateway, fetched back and judged",
        "ltxops smoke --url http://127.0.0.1:8188 --token-file token --case check,two-stage --out smoke",
    )
    parser.add_argument("--url", required=True, help="the gateway, or ComfyUI itself")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file that holds the gateway's token")
    parser.add_argument(
        "--case",
        action="append",
        metavar="NAME",
        help="check (no models; the default), two-stage or distilled; several: repeat it, or use commas",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where video and report go")
    parser.add_argument(
        "--deadline",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="for the job of one case, its time in the queue included (default: %(default)g)",
    )
    parser.add_argument(
        "--log",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a log whose last lines are shown when a case fails; may be repeated",
    )
    parser.add_argument(
        "--events", action="store_true", help="with --json: JSON lines on stdout as things happen, too"
    )
    for name, kind in _NUMBERS.items():
        parser.add_argument(_option(name), type=kind, metavar="N", help=f"set the workflow's {_label(name)}")
    for name in _TEXTS:
        parser.add_argument(_option(name), metavar="TEXT", help=f"set the workflow's {_label(name)}")


def _add_gate(nouns: Subparsers) -> None:
    parser = add_command(
        nouns,
        "gate",
        run_gate,
        "prove that an installed ComfyUI registers every node class the shipped workflows use",
        "ltxops gate --python venv/bin/python --main ComfyUI/main.py --generate",
    )
    parser.add_argument("--python", type=Path, required=True, metavar="P", help="Python of ComfyUI's venv")
    parser.add_argument("--main", type=Path, required=True, metavar="M", help="main.py of the checkout")
    parser.add_argument(
        "--base-directory",
        type=Path,
        metavar="DIR",
        help="holds custom_nodes/ (default: the folder of main.py)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="for ComfyUI to start (default: %(default)g)",
    )
    parser.add_argument(
        "--generate", action="store_true", help="also run the smoke case that needs neither weights nor a GPU"
    )


def run_smoke(args: argparse.Namespace) -> int:
    """Run the smoke cases; the report is printed whether they pass or not."""
    from ltxops.generation import smoke
    from ltxops.generation.display import listening
    from ltxops.generation.proof import Settings

    if not args.deadline > 0:
        raise BadInput(f"--deadline {args.deadline:g} must be more than 0 seconds")
    cases = [name.strip() for item in args.case or ["check"] for name in item.split(",") if name.strip()]
    if not cases:
        raise BadInput("--case names no case; give check, two-stage or distilled")
    settings = Settings(
        url=args.url,
        out=args.out,
        token=read_token(args.token_file) if args.token_file else None,
        deadline_seconds=args.deadline,
        values={name: getattr(args, name) for name in (*_NUMBERS, *_TEXTS)},
        logs=dict(_named_path(item) for item in args.log),
    )
    args.json = args.json or args.events
    with listening(args.events) as tell:
        result = smoke.run(settings, cases, tell)
    for case in result.get("cases", [result]):
        if not case["ok"]:
            _explain(case)
    emit(args, result, _summary(result))
    return int(result["exit_code"])


def run_gate(args: argparse.Namespace) -> int:
    """Run the import gate."""
    from ltxops.generation import import_gate

    found = import_gate.check_engine(
        args.python, args.main, args.base_directory, args.timeout, generate=args.generate
    )
    if found.complaint:
        log(f"ltxops: {found.complaint}")
    emit(
        args,
        {
            "ok": not found.missing,
            "missing": found.missing,
            "failed_imports": found.failed_imports,
            "classes": found.needed,
            "error": found.complaint,
            "exit_code": int(bool(found.missing)),
        },
        f"{found.needed - len(found.missing)} of {found.needed} node classes are registered",
    )
    return int(bool(found.missing))


def _named_path(item: str) -> tuple[str, Path]:
    name, separator, path = item.partition("=")
    if not (name and separator and path):
        raise BadInput(f"--log {item!r} is not NAME=PATH")
    return name, Path(path)


def _explain(case: dict[str, Any]) -> None:
    log(f"ltxops: smoke {case['case']} failed at {case['error']}")
    for name, lines in case["logs"].items():
        log(f"--- last lines of {name} ---")
        for line in lines:
            log(f"  {line}")


def _summary(result: dict[str, Any]) -> str:
    lines = [f"report: {result['report']}"]
    for case in result.get("cases", [result]):
        seen, files = case["video"], case["files"]
        state = "passed" if case["ok"] else "FAILED"
        lines.append(f"smoke {case['case']} {state} in {case['seconds']:.1f} s")
        if seen:
            lines.append(
                f"  {seen['width']} x {seen['height']}, {seen['frames']} frames at {seen['frame_rate']:g}/s"
            )
        lines += [f"  {files[key]}" for key in ("contact_sheet", "video") if files[key]]
    return "\n".join(lines)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _label(name: str) -> str:
    unit = f", in {_UNITS[name]}" if name in _UNITS else ""
    return name.replace("_", " ") + unit
