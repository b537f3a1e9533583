"""Which users and groups a host has, asked by name so that those of a directory service count, too."""

from __future__ import annotations

import grp
import pwd


def is_user(name: str) -> bool:
    """Say whether this host has a user of this name."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def is_group(name: str) -> bool:
    """Say whether this host has a group of this name."""
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True
