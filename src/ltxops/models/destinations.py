"""Where files go under the root: whether two of them can lie there together."""

from collections.abc import Iterable


def conflict(destinations: Iterable[tuple[str, str]]) -> str | None:
    """Say which (owner, destination) collide: the same file, or a file where a folder is needed."""
    pairs = list(destinations)
    owners: dict[str, str] = {}
    for owner, dest in pairs:
        if dest in owners:
            return f"'{owners[dest]}' and '{owner}' have the same destination {dest}"
        owners[dest] = owner
    for owner, dest in pairs:
        parts = dest.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            if folder in owners:
                return f"'{owners[folder]}' is a file at {folder}, where '{owner}' needs a folder"
    return None
