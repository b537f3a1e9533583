"""Installed versions of ComfyUI and its Manager, held against the holes that are known."""

import json
import re
from pathlib import Path

from ltxops.upkeep.doctor.checks import Check, from_faults
from ltxops.upkeep.doctor.settings import Settings

_VERSION = re.compile(r"""^\s*(?:__version__|version)\s*=\s*["']([^"']+)["']""", re.MULTILINE)


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, `v0.28.0` as (0, 28, 0); empty for a commit."""
    found = re.match(r"v?(\d+(?:\.\d+)+)", version)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def is_open(version: str, fixed: list[str]) -> bool:
    """Tell whether a version has a hole that the versions `fixed` closed, one a line of major versions."""
    mine, closed = numbers(version), sorted(numbers(it) for it in fixed)
    same_line = [it for it in closed if it[0] == mine[0]]
    return mine < same_line[0] if same_line else mine < closed[-1]


def known_holes() -> list[dict[str, list[str] | str]]:
    """Return the holes that are known: package, names, the versions that closed them, what they let in."""
    holes: list[dict[str, list[str] | str]] = json.loads(Path(__file__).with_name("holes.json").read_text())
    return holes


def judge(found: dict[str, str]) -> list[str]:
    """Return a sentence for each hole in what was `found`, version by package."""
    faults = []
    for package, version in found.items():
        if not numbers(version):
            faults.append(f"the version of {package} cannot be told ({version!r})")
            continue
        for hole in known_holes():
            if hole["package"] == package and is_open(version, list(hole["fixed"])):
                faults.append(f"{package} {version} has {', '.join(hole['names'])} ({hole['what']})")
    return faults


def installed(comfyui_dir: Path, comfyui_venv: Path, *more_nodes: Path) -> dict[str, str]:
    """Return the version of each package that is installed there. Raises OSError for what cannot be read.

    `more_nodes` are folders of custom nodes besides ComfyUI's own.
    """
    found = {"ComfyUI": _version_in(comfyui_dir / "comfyui_version.py")}
    for nodes in (comfyui_dir / "custom_nodes", *more_nodes):
        for folder in sorted(nodes.iterdir()) if nodes.is_dir() else []:
            if re.fullmatch(r"comfyui-?manager", folder.name, re.IGNORECASE):
                found["ComfyUI-Manager"] = _version_in(folder / "pyproject.toml")
    for packed in comfyui_venv.glob("lib/python*/site-packages/comfyui_manager-*.dist-info"):
        found["ComfyUI-Manager"] = packed.name.removeprefix("comfyui_manager-").removesuffix(".dist-info")
    return found


def check(settings: Settings) -> Check:
    """No version with a known hole is installed."""
    if settings.engine != "git":
        return Check("versions", True, "the embedded engine stands in for ComfyUI")
    # Nodes that an operator added lie beside the outputs, whatever version of ComfyUI is in use.
    added = settings.workspace / "ComfyUI/custom_nodes"
    found = installed(settings.engine_dir, settings.engine_venv, added)
    said = ", ".join(f"{package} {version}" for package, version in found.items())
    return from_faults(
        "versions", judge(found), said, "set comfyui_version to a later one and provision again"
    )


def _version_in(file: Path) -> str:
    found = _VERSION.search(file.read_text())
    return found[1] if found else "none in its file"
