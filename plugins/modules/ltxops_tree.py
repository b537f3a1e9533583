#!/usr/bin/python
"""Ansible module: bring folders and files of a host to what is wanted, all of a role's in one run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.ltxops_accounts import is_group, is_user

DOCUMENTATION = r"""
module: ltxops_tree
short_description: Make folders, place files with given content, and remove paths
description:
  - Does what M(ansible.builtin.file) and M(ansible.builtin.copy) do, for whole lists in one run.
  - Folders come first, then files, then what is to be absent. A file appears under its name when it is whole.
  - In check mode missing parents and users are no failure, as another role would have made them.
options:
  folders:
    description: >-
      Folders, parents before what lies in them, each with its C(path), and C(owner), C(group) and C(mode)
      (0755 unless given). What is not given is left as it is.
    type: list
    elements: dict
    default: []
  files:
    description: >-
      Files, each with its C(path) and C(content), and C(owner), C(group), C(mode) (0644 unless given) and
      C(validate), a command as a list whose C(%s) is the new file; it is run before the file takes its name.
    type: list
    elements: dict
    default: []
  absent:
    description: Files that must not be there, as paths or patterns of paths.
    type: list
    elements: path
    default: []
  keep:
    description: Paths that stay although a pattern of C(absent) fits them.
    type: list
    elements: path
    default: []
author: ["the ltxops maintainers"]
"""

EXAMPLES = r"""
- name: Place what the program needs
  ltxops_tree:
    folders: [{path: /var/lib/ltxops, owner: ltxops, mode: "0750"}]
    files: [{path: /opt/ltxops/bin/run.sh, content: "{{ lookup('ansible.builtin.template', 'run.sh.j2') }}"}]
    absent: [/etc/cron.d/ltxops]
"""

RETURN = r"""
touched:
  description: The paths that were made, changed or removed.
  returned: success
  type: list
  elements: str
"""

_ATTRIBUTES: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "owner": {"type": "str"},
    "group": {"type": "str"},
}
_FOLDER = {**_ATTRIBUTES, "mode": {"type": "str", "default": "0755"}}
_FILE = {
    **_ATTRIBUTES,
    "mode": {"type": "str", "default": "0644"},
    "content": {"type": "str", "required": True},
    "validate": {"type": "list", "elements": "str"},
}
_WITHOUT_BASE = "run the playbook without --tags, as role base makes it [ltxops exit 2]"


def strangers(entries: Iterable[dict[str, Any]]) -> list[str]:
    """Return the users and groups that own one of `entries` and are not on this host, as `user NAME`."""
    users = {entry["owner"] for entry in entries if entry["owner"]}
    groups = {entry["group"] for entry in entries if entry["group"]}
    missing = [f"user {name}" for name in sorted(users) if not (name.isdigit() or is_user(name))]
    return missing + [f"group {name}" for name in sorted(groups) if not (name.isdigit() or is_group(name))]


def present(path: Path) -> str | None:
    """Return the text of a file; None where there is no plain file. Bytes that are no text become marks."""
    if path.is_symlink() or not path.is_file():
        return None
    return path.read_bytes().decode(errors="replace")


def settle_attributes(module: AnsibleModule, path: Path, entry: dict[str, Any]) -> bool:
    """Bring owner, group and mode of `path` to those of `entry`; returns whether any differed."""
    if module.check_mode and strangers([entry]):
        return True
    wanted = {
        "path": str(path),
        **{name: entry[name] or None for name in ("owner", "group", "mode")},
        **dict.fromkeys(("attributes", "seuser", "serole", "setype", "selevel")),
        "secontext": [None] * (4 if module.selinux_mls_enabled() else 3),
    }
    return bool(module.set_fs_attributes_if_different(wanted, False))


def settle_folder(module: AnsibleModule, folder: dict[str, Any]) -> dict[str, str] | None:
    """Bring one folder to what is wanted; returns the difference, None where there was none."""
    path = Path(folder["path"])
    if path.is_dir():
        return difference(path, "", "", "attributes") if settle_attributes(module, path, folder) else None
    if path.exists() or path.is_symlink():
        module.fail_json(msg=f"{path} is there and is not a folder: move it away. [ltxops exit 2]")
    if not module.check_mode:
        path.mkdir(parents=True)
        settle_attributes(module, path, folder)
    return difference(path, "", "", "new folder")


def settle_file(module: AnsibleModule, file: dict[str, Any]) -> dict[str, str] | None:
    """Bring one file to what is wanted; returns the difference, None where there was none."""
    path, content = Path(file["path"]), file["content"]
    before = present(path)
    if before is not None and path.read_bytes() == content.encode():
        return difference(path, "", "", "attributes") if settle_attributes(module, path, file) else None
    if path.is_dir() and not path.is_symlink():
        module.fail_json(msg=f"{path} is a folder, and a file is wanted there: move it away. [ltxops exit 2]")
    if not module.check_mode:
        if not path.parent.is_dir():
            module.fail_json(msg=f"{path.parent} is not there: {_WITHOUT_BASE}")
        replace(module, path, file)
    return difference(path, before or "", content, "new file" if before is None else "")


def replace(module: AnsibleModule, path: Path, file: dict[str, Any]) -> None:
    """Write the file beside its place, have it validated, and move it there."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(file["content"].encode())
        stream.flush()
        os.fsync(stream.fileno())
    settle_attributes(module, part, file)
    if file["validate"]:
        command = [str(part) if word == "%s" else word for word in file["validate"]]
        code, stdout, stderr = module.run_command(command)
        if code != 0:
            part.unlink()
            module.fail_json(msg=f"{path} would not be valid: {(stderr or stdout).strip()[-600:]}", rc=code)
    part.replace(path)


def unwanted(patterns: Iterable[str], keep: Iterable[str]) -> list[str]:
    """Return the paths that fit one of `patterns` and are not to be kept; in a pattern only a name varies."""
    found = {str(path) for pattern in map(Path, patterns) for path in pattern.parent.glob(pattern.name)}
    return sorted(found - set(keep))


def remove(module: AnsibleModule, path: Path) -> dict[str, str]:
    """Remove a file or link; returns the difference."""
    if not module.check_mode:
        path.unlink()
    return difference(path, "", "", "removed")


def difference(path: Path, before: str, after: str, note: str) -> dict[str, str]:
    """Return a difference as `--diff` shows it."""
    words = f"{path} ({note})" if note else str(path)
    if before or after:
        return {"before": before, "after": after, "before_header": words, "after_header": words}
    return {"prepared": f"{words}\n"}


def main() -> None:
    """Settle everything the task names."""
    module = AnsibleModule(
        argument_spec={
            "folders": {"type": "list", "elements": "dict", "default": [], "options": _FOLDER},
            "files": {"type": "list", "elements": "dict", "default": [], "options": _FILE},
            "absent": {"type": "list", "elements": "path", "default": []},
            "keep": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    folders, files = module.params["folders"], module.params["files"]
    missing = strangers([*folders, *files])
    if missing and not module.check_mode:
        module.fail_json(msg=f"{missing[0]} is not on this host: {_WITHOUT_BASE}")
    found = {folder["path"]: settle_folder(module, folder) for folder in folders}
    found |= {file["path"]: settle_file(module, file) for file in files}
    stale = unwanted(module.params["absent"], module.params["keep"])
    found |= {path: remove(module, Path(path)) for path in stale}
    differences = {path: it for path, it in found.items() if it is not None}
    module.exit_json(changed=bool(differences), touched=list(differences), diff=list(differences.values()))


if __name__ == "__main__":
    main()
