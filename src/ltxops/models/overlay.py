"""The overlay (models.local.yaml beside the manifest): what was added on this site, on top of models.yaml.

It has the manifest's form and strictness. A profile of the same name is extended by it, and its profile
`local` belongs to every profile, so that whatever a host is synced to, what was added comes along.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ltxops.errors import BadInput
from ltxops.models import lock, manifest
from ltxops.models.destinations import conflict
from ltxops.models.durable import write_text
from ltxops.models.lock import LockedModel
from ltxops.models.manifest import Manifest, Profile, overlay_path
from ltxops.models.model import Model, read_models
from ltxops.models.strictyaml import Value, did_you_mean

#: The overlay's profile that is part of every other.
EVERYWHERE = "local"

_HEADER = """# Weights added on top of {manifest} by `ltxops models add`, which keeps what is edited here
# by hand, but no comments.
"""


def load(path: Path) -> Manifest:
    """Read the manifest at `path` and the overlay beside it, if there is one. Raises BadInput."""
    base = manifest.load(path)
    overlay = overlay_path(path)
    if not overlay.exists():
        return base
    models_value, profiles_value = manifest.read_sections(overlay)
    values = models_value.mapping()
    models = read_models(models_value)
    others = base
    for name, model in models.items():
        if problem := clash(others, model):
            raise values[name].error(problem)
        others = replace(others, models={**others.models, name: model})
    if EVERYWHERE in base.profiles and EVERYWHERE in profiles_value.mapping():
        raise profiles_value.error(f"profile '{EVERYWHERE}' is also in {path}; rename one of them")
    both = {**base.models, **models}
    merged = manifest.assemble(Manifest(path, both, base.profiles, frozenset(models)), profiles_value, both)
    return _with_everywhere(merged, profiles_value) if EVERYWHERE not in base.profiles else merged


def clash(base: Manifest, model: Model) -> str | None:
    """Say why `model` cannot be added to `base`: its name or its place is taken."""
    if model.name in base.models:
        return f"model '{model.name}' is in {base.path} already; give this one another name"
    for other in base.models.values():
        if problem := _collision(other, model):
            return f"{problem}; give it another 'dest'"
    return None


def _collision(other: Model, model: Model) -> str | None:
    """Say how two models get into each other's way, as far as their destinations are known."""
    if model.file is not None and other.file is not None:
        pairs = ((other.name, other.destination(other.file)), (model.name, model.destination(model.file)))
        return conflict(pairs)
    if model.file is None and other.file is None:
        return f"'{other.name}' has the folder {model.dest}" if model.dest == other.dest else None
    folder, single = (model, other) if model.file is None else (other, model)
    place = single.destination(str(single.file))
    if place.startswith(folder.dest) and folder.selects(place[len(folder.dest) :]):
        return f"'{single.name}' goes to {place}, among the files of '{folder.name}'"
    return None


def add(path: Path, model: Model, entry: LockedModel, profiles: tuple[str, ...]) -> bool:
    """Write `model`, with its lock, to the overlay of the manifest at `path`.

    Returns whether anything changed: the same again changes nothing. Raises BadInput when its name or place
    is taken, by the manifest or by an overlay entry that says something else.
    """
    with _only_writer(path):
        check(path, model)
        now = load(path)
        mine = {name: now.models[name] for name in now.models if name in now.local} | {model.name: model}
        locked = {name: locked for name, locked in lock.load(now).items() if name in now.local}
        named = _profiles_of(overlay_path(path))
        before = (now.models.get(model.name), locked.get(model.name), _as_lists(named))
        for profile in profiles:
            old = named.get(profile, Profile((), ()))
            named[profile] = Profile(tuple(dict.fromkeys((*old.models, model.name))), old.extends)
        after = (model, entry, _as_lists(named))
        if before == after:
            return False
        # The lock first: an entry that no manifest names is harmless, a model without its lock is not.
        order = Manifest(overlay_path(path), mine, {})
        lock.save(lock.lock_path(overlay_path(path)), {**locked, model.name: entry}, order)
        _save(path, mine, named)
        return True


def require_profiles(path: Path, names: tuple[str, ...]) -> None:
    """Raise BadInput for a profile that neither the manifest at `path` nor its overlay has."""
    known = load(path).profiles
    for name in names:
        if name != EVERYWHERE and name not in known:
            hint = did_you_mean(name, known)
            raise BadInput(f"{path}: profile '{name}' is not defined{hint} (defined: {', '.join(known)})")


def check(path: Path, model: Model) -> None:
    """Raise BadInput when `model` cannot be added to the manifest at `path` and its overlay."""
    if not os.access(path.parent, os.W_OK):
        raise BadInput(f"{path.parent} cannot be written to, where {overlay_path(path).name} would be")
    now = load(path)
    if now.models.get(model.name) == model and model.name in now.local:
        return
    if problem := clash(now, model):
        raise BadInput(problem)


def _with_everywhere(merged: Manifest, profiles_value: Value) -> Manifest:
    if EVERYWHERE not in merged.profiles:
        return merged
    everywhere = merged.profiles[EVERYWHERE]
    if everywhere.extends:
        raise profiles_value.mapping()[EVERYWHERE].error("is part of every profile, so it can extend none")
    profiles = {
        name: profile if name == EVERYWHERE else replace(profile, models=profile.models + everywhere.models)
        for name, profile in merged.profiles.items()
    }
    return replace(merged, profiles=profiles)


def _profiles_of(overlay: Path) -> dict[str, Profile]:
    """Return the overlay's own part of each profile. The file was found right before."""
    if not overlay.exists():
        return {}
    _, profiles_value = manifest.read_sections(overlay)
    found = {}
    for name, value in profiles_value.mapping().items():
        entries = value.mapping()
        lists = {key: tuple(item.string() for item in entries[key].sequence()) for key in entries}
        found[name] = Profile(lists.get("models", ()), lists.get("extends", ()))
    return found


def _as_lists(profiles: dict[str, Profile]) -> dict[str, Any]:
    return {
        name: {
            key: list(names)
            for key, names in (("extends", profile.extends), ("models", profile.models))
            if names
        }
        for name, profile in profiles.items()
    }


def _save(path: Path, models: dict[str, Model], profiles: dict[str, Profile]) -> None:
    content = {
        "version": 1,
        "models": {name: _as_yaml(model) for name, model in models.items()},
        "profiles": _as_lists(profiles),
    }
    body = yaml.safe_dump(content, sort_keys=False, explicit_start=True)
    write_text(overlay_path(path), _HEADER.format(manifest=path.name) + body)


def _as_yaml(model: Model) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "repo": model.repo or None,
        "url": model.url,
        "path": model.path,
        "file": model.file if model.repo else None,
        "files": list(model.files) or None,
        "dest": model.dest,
        "revision": model.revision,
        "license": model.license,
        "gated": model.gated or None,
    }
    return {key: value for key, value in keys.items() if value is not None}


@contextlib.contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    """Hold the manifest's folder, so that two that add at once both end up in the overlay."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
