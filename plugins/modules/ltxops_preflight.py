#!/usr/bin/python
"""Ansible module: look at a host before anything is changed, and name every problem in one sentence each."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.ltxops_processes import ours as our_processes
from ansible.module_utils.ltxops_risks import RISKS, holes_in, risks_in, versions_of
from ansible.module_utils.ltxops_tokens import problems as token_problems

DOCUMENTATION = r"""
module: ltxops_preflight
short_description: Check that a host can become an LTX-2 video host
description:
  - Looks at the operating system, Python, memory, disk, GPU, needed commands and ports. Changes nothing.
  - Fails with one sentence a problem, all of them at once, each with the exit code ltxops would give.
options:
  requirements:
    description: What the host must offer; the keys are those of the role preflight.
    type: dict
    required: true
  token:
    description: The bearer token an operator gave, if any.
    type: str
  tokens:
    description: The named bearer tokens an operator gave.
    type: dict
    default: {}
author: ["the ltxops maintainers"]
"""

EXAMPLES = r"""
- name: Check the host
  ltxops_preflight:
    requirements:
      min_python: "3.10"
      min_ram_gib: 32
      ports: [{port: 8188, what: gateway, variable: gateway_port}]
"""

RETURN = r"""
survey:
  description: What was seen.
  returned: always
  type: dict
"""

GIB = 1024**3

#: Types are declared because a playbook's numbers and booleans arrive as text with ansible-core 2.17.
REQUIREMENTS: dict[str, Any] = {
    "scope": {"type": "str", "choices": ["host", "user"]},
    **{
        name: {"type": "str"}
        for name in ("workspace", "home", "run_dir", "models_root", "socket", "nginx_pidfile")
    },
    **{
        name: {"type": "str"}
        for name in ("min_python", "min_driver", "nvidia_smi", "comfyui_gpus", "search_path")
    },
    **{name: {"type": "int"} for name in ("min_ram_gib", "disk_reserve_gib", "min_vram_gib")},
    **{name: {"type": "str"} for name in ("engine", "engine_version", "engine_address")},
    **{name: {"type": "list", "elements": "str"} for name in ("engine_flags", "service_users")},
    **{name: {"type": "list", "elements": "dict"} for name in ("nodes", "known_holes")},
    "accepted_risks": {"type": "list", "elements": "str", "choices": RISKS},
    "strict": {"type": "bool"},
    "gpu_required": {"type": "bool"},
    "commands": {"type": "dict"},
    "refusal_of_wrapper": {"type": "str"},
    "smoke_cases": {"type": "list", "elements": "str", "choices": ["check", "distilled", "two-stage"]},
    "files": {"type": "list", "elements": "dict"},
    "ports": {
        "type": "list",
        "elements": "dict",
        "options": {"port": {"type": "str"}, "what": {"type": "str"}, "variable": {"type": "str"}},
    },
}


class Problem(NamedTuple):
    """The exit code ltxops would give, and one sentence."""

    code: int
    sentence: str


def version_tuple(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a dotted version, so that 3.10 sorts after 3.9."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def parse_os_release(text: str) -> dict[str, str]:
    """Return the fields of an os-release file (see os-release(5)), quotes removed."""
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip().strip("\"'") for key, value in fields.items()}


def parse_nvidia_smi(text: str) -> list[dict[str, Any]]:
    """Read `nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader,nounits`.

    Memory is in MiB there. A line of another shape is left out.
    """
    gpus = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3 and parts[1].isdigit():
            gpus.append({"name": parts[0], "vram_mib": int(parts[1]), "driver": parts[2]})
    return gpus


def existing_parent(path: Path) -> Path:
    """Return the nearest folder at or above `path` that is there."""
    return next(folder for folder in [path, *path.parents] if folder.is_dir())


def parse_listeners(table: str) -> dict[int, set[str]]:
    """Read /proc/net/tcp or tcp6: port → inodes of the sockets that listen on it (state 0A)."""
    listeners: dict[int, set[str]] = {}
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == "0A":
            listeners.setdefault(int(fields[1].rsplit(":", 1)[1], 16), set()).add(fields[9])
    return listeners


def process_holding(inodes: set[str]) -> tuple[int, str] | None:
    """Return (pid, command line) of a process that has one of these sockets open, if it can be seen."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            held = any(str(descriptor.readlink()) in wanted for descriptor in folder.iterdir())
            command = (folder.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if held:
            return int(folder.parent.name), command.strip()
    return None


def socket_refuses(port: int) -> bool:
    """Return whether loopback refuses to bind `port` although no listener of it can be seen."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def survey_port(port: int, listeners: dict[int, set[str]], ours: set[int]) -> dict[str, Any]:
    """Say whether `port` is free, or taken by one of the processes `ours`, or by whom else."""
    if port not in listeners:
        closing = "a connection that is open or closing; try again in a minute"
        return {"free": not socket_refuses(port), "ours": False, "holder": closing}
    holder = process_holding(listeners[port])
    if holder is None:
        return {"free": False, "ours": False, "holder": "a process of another user"}
    pid, command = holder
    return {
        "free": False,
        "ours": pid in ours,
        "holder": f"pid {pid} ({command[:80]})",
    }


def missing_bytes(files: list[dict[str, Any]], root: Path) -> int:
    """Return how many bytes of `files` ({dest, size}) are not under `root` at their full size yet."""
    total = 0
    for file in files:
        path = root / file["dest"]
        present = path.stat().st_size if path.is_file() else -1
        total += (file["size"] or 0) if present != file["size"] else 0
    return total


def survey_host(module: AnsibleModule, need: dict[str, Any]) -> dict[str, Any]:
    """Look at the host; nothing is decided here."""
    listeners: dict[int, set[str]] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if Path(table).exists():
            for port, inodes in parse_listeners(Path(table).read_text()).items():
                listeners.setdefault(port, set()).update(inodes)
    ours = our_processes(need["socket"], need["nginx_pidfile"])
    gpus: list[dict[str, Any]] = []
    smi = shutil.which(need["nvidia_smi"])
    if smi:
        query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
        code, stdout, _ = module.run_command([smi, *query])
        gpus = parse_nvidia_smi(stdout) if code == 0 else []
    root = Path(need["models_root"])
    return {
        "os": parse_os_release(Path("/etc/os-release").read_text()),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "ram_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": gpus,
        "uid": os.geteuid(),
        "free_bytes": shutil.disk_usage(existing_parent(root)).free,
        "missing_bytes": missing_bytes(need["files"], root),
        "commands": {name: shutil.which(name, path=need["search_path"]) for name in need["commands"]},
        "ports": {port["port"]: survey_port(int(port["port"]), listeners, ours) for port in need["ports"]},
        "writable": os.access(existing_parent(Path(need["workspace"])), os.W_OK),
    }


def judge(seen: dict[str, Any], need: dict[str, Any]) -> list[Problem]:
    """Hold what was `seen` against what is needed."""
    return [
        *judge_system(seen, need),
        *judge_gpu(seen, need),
        *judge_room(seen, need),
        *judge_ports(seen, need),
    ]


def judge_settings(need: dict[str, Any]) -> Iterator[Problem]:
    """Settings that can be refused without looking at the host."""
    if need["refusal_of_wrapper"]:
        yield Problem(2, f"wrapper_environment: {need['refusal_of_wrapper']}")
    if not re.fullmatch(r"auto|[1-9]|1[0-6]", need["comfyui_gpus"]):
        yield Problem(2, f"comfyui_gpus is {need['comfyui_gpus']}: give auto, or a number from 1 to 16")
    for name in ("workspace", "home", "run_dir"):
        if re.search(r"[^A-Za-z0-9._/@+-]", need[name]):
            yield Problem(
                2,
                f"the path {need[name]!r} has a character that supervisord and nginx read in their own way: "
                "use one with only letters, digits and . _ - @ + /",
            )
    for port in need["ports"]:
        if not (port["port"].isdigit() and 0 < int(port["port"]) < 65536):
            yield Problem(2, f"{port['variable']} is {port['port']}: a port is a number from 1 to 65535")
    # A Unix socket's name holds 107 bytes (unix(7)); supervisord adds a suffix of its own while binding.
    socket_path = f"{need['run_dir']}/supervisor.sock"
    if len(socket_path) > 90:
        yield Problem(
            2,
            f"the path of supervisord's socket, {socket_path!r}, is {len(socket_path)} characters long "
            "and may be 90: use a shorter folder",
        )


def judge_risks(need: dict[str, Any]) -> Iterator[Problem]:
    """Settings that would leave the host open, unless they were asked for by name."""
    for risk, sentence in risks_in(need):
        if risk not in need["accepted_risks"]:
            yield Problem(2, f"{sentence}; who wants that sets preflight_accepted_risks: [{risk}]")


def judge_system(seen: dict[str, Any], need: dict[str, Any]) -> Iterator[Problem]:
    """Operating system, Python, memory, rights and commands."""
    family = {seen["os"].get("ID", "unknown"), *seen["os"].get("ID_LIKE", "").split()}
    if not family & {"debian", "ubuntu"}:
        name = seen["os"].get("PRETTY_NAME", "an unknown system")
        yield Problem(1, f"this host runs {name}: Debian or Ubuntu is needed")
    if version_tuple(seen["python"]) < version_tuple(need["min_python"]):
        yield Problem(
            1,
            f"Python is {seen['python']}: {need['min_python']} or later is needed "
            "(set ansible_python_interpreter to one)",
        )
    if seen["ram_bytes"] < need["min_ram_gib"] * GIB:
        yield Problem(
            1,
            f"the host has {seen['ram_bytes'] / GIB:.1f} GiB of RAM: {need['min_ram_gib']} GiB are needed "
            "(preflight_min_ram_gib)",
        )
    if need["scope"] == "host" and seen["uid"] != 0:
        yield Problem(2, "scope host needs root: connect as root or set ansible_become: true")
    if not seen["writable"]:
        yield Problem(2, f"nothing can be written at {need['workspace']}: choose another folder or user")
    for name, package in need["commands"].items():
        if not seen["commands"][name] and need["scope"] == "user" and seen["uid"] != 0:
            yield Problem(1, f"{name} is not installed: run `sudo apt-get install {package}` and start again")


def judge_gpu(seen: dict[str, Any], need: dict[str, Any]) -> Iterator[Problem]:
    """GPU, driver and video memory; asked for only where a GPU is required."""
    if not need["gpu_required"]:
        return
    if not seen["gpus"]:
        yield Problem(
            1,
            f"no NVIDIA GPU answers to {need['nvidia_smi']}: install the driver, or set "
            "preflight_gpu_required: false on a machine that has none",
        )
        return
    wanted, found = need["comfyui_gpus"], len(seen["gpus"])
    if wanted != "auto" and int(wanted) > found:
        yield Problem(2, f"comfyui_gpus is {wanted} and nvidia-smi finds {found}: give that many, or auto")
    smallest = min(seen["gpus"], key=lambda gpu: gpu["vram_mib"])
    # nvidia-smi reports less than the nominal size, for instance 23028 MiB on a 24 GB card.
    if smallest["vram_mib"] < need["min_vram_gib"] * 1024 * 0.93:
        yield Problem(
            1,
            f"{smallest['name']} has {smallest['vram_mib'] / 1024:.1f} GiB of video memory: "
            f"{need['min_vram_gib']} GiB are needed (preflight_min_vram_gib)",
        )
    if version_tuple(smallest["driver"]) < version_tuple(str(need["min_driver"])):
        yield Problem(
            1,
            f"the NVIDIA driver is {smallest['driver']}: {need['min_driver']} or later is needed "
            "(preflight_min_driver)",
        )


def judge_room(seen: dict[str, Any], need: dict[str, Any]) -> Iterator[Problem]:
    """Free disk against the weights that are still missing plus what must stay free."""
    lacking = seen["missing_bytes"] + need["disk_reserve_gib"] * GIB - seen["free_bytes"]
    if lacking > 0:
        yield Problem(
            4,
            f"{need['models_root']} has {seen['free_bytes'] / GIB:.1f} GiB free; the missing weights take "
            f"{seen['missing_bytes'] / GIB:.1f} GiB and {need['disk_reserve_gib']} GiB must stay free "
            f"(preflight_disk_reserve_gib): {lacking / GIB:.1f} GiB are lacking",
        )


def judge_ports(seen: dict[str, Any], need: dict[str, Any]) -> Iterator[Problem]:
    """Ports that somebody else has, and two of ours that are the same."""
    first_use: dict[str, str] = {}
    for port in need["ports"]:
        state = seen["ports"][port["port"]]
        if port["port"] in first_use:
            yield Problem(2, f"{port['variable']} and {first_use[port['port']]} are both {port['port']}")
        elif not state["free"] and not state["ours"]:
            yield Problem(
                1,
                f"port {port['port']} ({port['what']}) is taken by {state['holder']}: stop it or set "
                f"{port['variable']} to a free port",
            )
        first_use.setdefault(port["port"], port["variable"])


def main() -> None:
    """Survey, judge, and fail with every problem at once."""
    module = AnsibleModule(
        argument_spec={
            "requirements": {"type": "dict", "required": True, "options": REQUIREMENTS},
            "token": {"type": "str", "no_log": True},
            "tokens": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    need = module.params["requirements"]
    tokens = {str(name): str(value) for name, value in module.params["tokens"].items()}
    problems = [Problem(2, sentence) for sentence in token_problems(module.params["token"], tokens)]
    problems += [*judge_settings(need), *judge_risks(need)]
    for hole in holes_in(
        versions_of(need["engine"], need["engine_version"], need["nodes"]), need["known_holes"]
    ):
        if need["strict"]:
            problems.append(Problem(2, f"{hole} (preflight_strict)"))
        else:
            module.warn(hole)
    seen = {} if problems else survey_host(module, need)
    problems = problems or judge(seen, need)
    if problems:
        text = "; ".join(f"{problem.sentence} [ltxops exit {problem.code}]" for problem in problems)
        module.fail_json(msg=text, survey=seen, rc=problems[0].code)
    module.exit_json(changed=False, survey=seen)


if __name__ == "__main__":
    main()
