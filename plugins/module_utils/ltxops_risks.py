"""Settings and versions that would leave a host open, judged before anything is changed."""

from __future__ import annotations

import re
from typing import Any

#: What an operator may ask for by name in preflight_accepted_risks.
RISKS = ["public_listen", "open_cors", "root_service", "unpinned_nodes"]
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, `v0.28.0` as (0, 28, 0); empty for a commit or a branch."""
    found = re.match(r"v?(\d+(?:\.\d+)+)", version)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def is_open(version: str, fixed: list[str]) -> bool:
    """Tell whether a version has a hole that the versions `fixed` closed, one a line of major versions."""
    mine, closed = numbers(version), sorted(numbers(it) for it in fixed)
    same_line = [it for it in closed if it[0] == mine[0]]
    return mine < same_line[0] if same_line else mine < closed[-1]


def holes_in(versions: dict[str, str], holes: list[dict[str, Any]]) -> list[str]:
    """Return a sentence for each known hole; a commit is for the doctor to judge, once it is there."""
    return [
        f"{package} {version} has {', '.join(hole['names'])} ({hole['what']}): "
        f"{' or '.join(hole['fixed'])} or later closes it"
        for package, version in versions.items()
        for hole in holes
        if hole["package"] == package and numbers(version) and is_open(version, hole["fixed"])
    ]


def versions_of(engine: str, version: str, nodes: list[dict[str, str]]) -> dict[str, str]:
    """Return the versions that are about to be installed, by package."""
    if engine != "git":
        return {}
    found = {"ComfyUI": version}
    for node in nodes:
        if re.fullmatch(r"(?i)comfyui-?manager", node["name"]):
            found["ComfyUI-Manager"] = node["version"]
    return found


def values_of(flags: list[str], name: str) -> list[str]:
    """Return the values of a flag, each time it is given; a bare one has an empty value."""
    values = []
    for index, flag in enumerate(flags):
        if flag == name:
            following = flags[index + 1] if index + 1 < len(flags) else "--"
            values.append("" if following.startswith("--") else following)
        elif flag.startswith(f"{name}="):
            values.append(flag.split("=", 1)[1])
    return values


def risks_in(need: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (risk, sentence) for each setting that would leave the host open."""
    found = []
    flags = [str(flag) for flag in need["engine_flags"]]
    addresses = {need["engine_address"], *values_of(flags, "--listen")}
    if addresses - _LOOPBACK:
        open_to = ", ".join(sorted(address or "all addresses" for address in addresses - _LOOPBACK))
        found.append(("public_listen", f"ComfyUI would listen on {open_to}, where anyone can run code by it"))
    if {"", "*"} & set(values_of(flags, "--enable-cors-header")):
        found.append(("open_cors", "--enable-cors-header without an origin lets any web page use ComfyUI"))
    if need["scope"] == "host" and "root" in need["service_users"]:
        found.append(("root_service", "a service user is root, and ComfyUI runs other people's code"))
    for node in need["nodes"] if need["engine"] == "git" else []:
        if not re.fullmatch(r"[0-9a-f]{40}", node["version"]):
            sentence = f"{node['name']} is at {node['version']!r}, which its owner can move: name a commit"
            found.append(("unpinned_nodes", sentence))
    return found
