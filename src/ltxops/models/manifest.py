"""The manifest (models.yaml): which weights exist, where each comes from and goes to, and which profile
needs it.

Everything that can be wrong in it is found while it is read, before any network is used and before anything
on disk is touched: `load` raises BadInput with the file, the line and the key.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ltxops.errors import BadInput
from ltxops.models import strictyaml
from ltxops.models.destinations import conflict
from ltxops.models.model import Model, read_models
from ltxops.models.strictyaml import Value, did_you_mean


@dataclass(frozen=True)
class Profile:
    """A list of model names, on top of those of the profiles that it extends."""

    models: tuple[str, ...]
    extends: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """A manifest found consistent; `path` is for messages and for finding the lock beside it.

    `local` names the models that the overlay beside it adds (see `overlay`).
    """

    path: Path
    models: Mapping[str, Model]
    profiles: Mapping[str, Profile]
    local: frozenset[str] = frozenset()

    def profile(self, name: str) -> list[Model]:
        """Return the models of a profile, each once, those of extended profiles first. Raises BadInput."""
        if name not in self.profiles:
            hint = did_you_mean(name, self.profiles)
            defined = ", ".join(self.profiles)
            raise BadInput(f"{self.path}: profile '{name}' is not defined{hint} (defined: {defined})")
        return [self.models[model] for model in dict.fromkeys(self._names(name))]

    def _names(self, name: str) -> list[str]:
        profile = self.profiles[name]
        inherited = [model for base in profile.extends for model in self._names(base)]
        return [*inherited, *profile.models]


def overlay_path(path: Path) -> Path:
    """Return where the overlay of the manifest at `path` lies: `x/models.yaml` has `x/models.local.yaml`."""
    return path.with_name(f"{path.stem}.local.yaml")


def load(path: Path) -> Manifest:
    """Read and check the manifest at `path`, alone. Raises BadInput naming file, line and key."""
    models_value, profiles_value = read_sections(path)
    models = read_models(models_value)
    return assemble(Manifest(path, models, {}), profiles_value, models)


def read_sections(path: Path) -> tuple[Value, Value]:
    """Return the values of `models` and `profiles` of the file at `path`. Raises BadInput."""
    if not path.exists():
        raise BadInput(f"{path}: there is no such file; name the manifest with --manifest")
    root = strictyaml.read(path).mapping(("version", "models", "profiles"), ("version", "models", "profiles"))
    if root["version"].integer() != 1:
        raise root["version"].error("must be 1, the only version there is")
    return root["models"], root["profiles"]


def assemble(base: Manifest, profiles_value: Value, models: Mapping[str, Model]) -> Manifest:
    """Return `base` with the profiles of one file; `models` are those they may name. Raises BadInput.

    A profile that `base` has already is replaced by it and what the file says, together.
    """
    values = profiles_value.mapping()
    known: dict[str, object] = {**base.profiles, **values}
    profiles = dict(base.profiles)
    for name, value in values.items():
        more, old = _profile(value, models, known), base.profiles.get(name, Profile((), ()))
        profiles[name] = Profile(old.models + more.models, old.extends + more.extends)
    for name, value in values.items():
        _refuse_cycle(name, value, profiles)
    manifest = Manifest(base.path, models, profiles, base.local)
    for name in profiles:
        single = [model for model in manifest.profile(name) if model.file is not None]
        if problem := conflict((model.name, model.destination(str(model.file))) for model in single):
            raise values.get(name, profiles_value).error(problem)
    return manifest


def _profile(value: Value, models: Mapping[str, Model], profiles: Mapping[str, object]) -> Profile:
    entries = value.mapping(("extends", "models"))
    if not entries:
        raise value.error("needs 'models', 'extends' or both")
    return Profile(
        models=_names(entries.get("models"), "model", models),
        extends=_names(entries.get("extends"), "profile", profiles),
    )


def _names(value: Value | None, kind: str, known: Mapping[str, object]) -> tuple[str, ...]:
    items = value.sequence() if value is not None else []
    for item in items:
        name = item.string()
        if name not in known:
            raise item.error(f"{kind} '{name}' is not defined{did_you_mean(name, known)}")
    return tuple(item.string() for item in items)


def _refuse_cycle(
    name: str, value: Value, profiles: Mapping[str, Profile], chain: tuple[str, ...] = ()
) -> None:
    if name in chain:
        raise value.error(f"extends itself: {' -> '.join((*chain, name))}")
    for base in profiles[name].extends:
        _refuse_cycle(base, value, profiles, (*chain, name))
