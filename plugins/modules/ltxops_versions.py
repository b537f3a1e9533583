#!/usr/bin/python
"""Ansible module: which of the versions that lie side by side is in use, and which one before it is kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: ltxops_versions
short_description: Switch between versions that lie side by side
description:
  - In a folder with one folder a version, the link C(current) names the one in use and C(previous) the one to
    go back to. Each is changed at once, so that a run that is killed leaves one or the other.
  - C(use) makes a version the current one. C(keep) notes that the current one was proven, and removes all
    others but the previous one. C(back) returns from a current one that was never proven to the previous one.
options:
  folder:
    description: The folder of the versions.
    type: path
    required: true
  action:
    description: What to do.
    type: str
    choices: [use, keep, back]
    required: true
  name:
    description: Folder of the version to use.
    type: str
author: ["the ltxops maintainers"]
"""

EXAMPLES = r"""
- name: Use the new version
  ltxops_versions: {folder: /workspace/ComfyUI-versions, action: use, name: v0.28.0-0123456789}
"""

RETURN = r"""
current:
  description: Name of the version in use, empty when there is none.
  returned: always
  type: str
previous:
  description: Name of the version to go back to, empty when there is none.
  returned: always
  type: str
left:
  description: Name of the version that was in use until now, empty when it still is.
  returned: always
  type: str
removed:
  description: Versions that were removed.
  returned: always
  type: list
  elements: str
"""

CURRENT = "current"
PREVIOUS = "previous"
PROVEN = ".proven"


class Links(NamedTuple):
    """The version in use and the one to go back to; an empty text where there is none."""

    current: str
    previous: str


def after_use(links: Links, wanted: str, proven: bool) -> Links:
    """Return the links once `wanted` is in use; `proven` is about the version that was.

    One that never passed is no place to go back to, if there is another.
    """
    if links.current == wanted:
        return links
    previous = links.current if proven or not links.previous else links.previous
    return Links(wanted, "" if previous == wanted else previous)


def after_back(links: Links, proven: bool) -> Links:
    """Return the links after going back, which only a version that was never `proven` is a reason for."""
    return links if proven or not links.previous else Links(links.previous, "")


def superfluous(versions: list[str], links: Links) -> list[str]:
    """Return the versions that are neither in use nor the one to go back to; none where nothing is in use."""
    return sorted(set(versions) - set(links)) if links.current else []


def target(link: Path) -> str:
    """Return the name of the version that a link names, or an empty text."""
    try:
        name = link.readlink().name
    except OSError:
        return ""
    return name if (link.parent / name).is_dir() else ""


def read(folder: Path) -> Links:
    """Return the links that are there; a version is no place to go back to from itself."""
    current, previous = target(folder / CURRENT), target(folder / PREVIOUS)
    return Links(current, "" if previous == current else previous)


def point(link: Path, name: str) -> None:
    """Make `link` name a version, or nothing, in one step."""
    if not name:
        link.unlink(missing_ok=True)
    elif target(link) != name:
        part = link.with_name(f".{link.name}.part")
        part.unlink(missing_ok=True)
        part.symlink_to(name)
        part.replace(link)


def main() -> None:
    """Do what the task asks for."""
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "action": {"type": "str", "choices": ["use", "keep", "back"], "required": True},
            "name": {"type": "str"},
        },
        required_if=[("action", "use", ["name"])],
        supports_check_mode=True,
    )
    folder, action = Path(module.params["folder"]), module.params["action"]
    links = read(folder)
    stamp = folder / links.current / PROVEN if links.current else None
    proven = stamp is not None and stamp.exists()
    wanted, removed = links, []
    if action == "use":
        wanted = after_use(links, module.params["name"], proven)
    elif action == "back":
        wanted = after_back(links, proven)
    elif links.current:
        versions = [it.name for it in folder.iterdir() if it.is_dir() and not it.is_symlink()]
        removed = superfluous(versions, links)
    prove = action == "keep" and stamp is not None and not proven
    if not module.check_mode:
        # A run that is killed in between leaves a way back.
        order = [(PREVIOUS, wanted.previous), (CURRENT, wanted.current)]
        for link, name in order if wanted.previous else reversed(order):
            point(folder / link, name)
        if prove and stamp is not None:
            stamp.touch()
        for name in removed:
            shutil.rmtree(folder / name)
    left = links.current if wanted.current != links.current else ""
    changed = wanted != links or prove or bool(removed)
    module.exit_json(changed=changed, left=left, removed=removed, **wanted._asdict())


if __name__ == "__main__":
    main()
