"""The lock (models.lock.yaml beside the manifest): the exact revision, size and sha256 of each model's files.

The tool writes it, people review it. A model that is not in it is resolved from the hub when it is needed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ltxops.errors import BadInput
from ltxops.models import strictyaml
from ltxops.models.durable import write_text
from ltxops.models.manifest import Manifest, Model, path_problem
from ltxops.models.strictyaml import Value

_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_HEADER = """# Revision, size (bytes) and sha256 of the weights in models.yaml, for people to review.
# Written by `ltxops models lock`. Small files have git_blob instead: the hub tells no sha256 of them.
"""


@dataclass(frozen=True)
class LockedFile:
    """One file of a repository at one commit. `size` is in bytes.

    `sha256` is known for files kept in large file storage. For the others the hub gives git's own blob id
    (`git_blob`: sha1 over `blob SIZE NUL` and the content).
    """

    path: str
    size: int
    sha256: str | None = None
    git_blob: str | None = None


@dataclass(frozen=True)
class LockedModel:
    """What a model's name stood for when it was resolved: `repo`, `ref` and `select` repeat the manifest."""

    repo: str
    revision: str
    select: tuple[str, ...]
    ref: str | None
    files: tuple[LockedFile, ...]

    def fits(self, model: Model) -> bool:
        """Tell whether `model` still asks for what was resolved."""
        return (self.repo, self.select, self.ref) == (model.repo, selection(model), model.revision)


def selection(model: Model) -> tuple[str, ...]:
    """Return the file, or the patterns, that a model asks for."""
    return (model.file,) if model.file is not None else model.files


def lock_path(manifest: Path) -> Path:
    """Return where the lock of a manifest lies: `x/models.yaml` has `x/models.lock.yaml`."""
    return manifest.with_name(f"{manifest.stem}.lock.yaml")


def load(manifest: Manifest, *, fitting: bool = True) -> dict[str, LockedModel]:
    """Return the locked models by name; empty when there is no lock.

    Raises BadInput for a damaged lock and, when `fitting`, for an entry that no longer fits the manifest: to
    ignore it would silently unpin that model.
    """
    path = lock_path(manifest.path)
    if not path.exists():
        return {}
    root = strictyaml.read(path).mapping(("version", "models"), ("version", "models"))
    if root["version"].integer() != 1:
        raise root["version"].error("must be 1; a newer ltxops wrote this lock")
    locked = {}
    for name, value in root["models"].mapping().items():
        entry = _locked_model(value)
        model = manifest.models.get(name)
        if fitting and model is not None and not entry.fits(model):
            raise value.error(
                f"does not fit {manifest.path} any more; run `ltxops models lock` and review it"
            )
        locked[name] = entry
    return locked


def save(path: Path, locked: Mapping[str, LockedModel], order: Manifest) -> None:
    """Write the lock atomically, in the order of the manifest so that a change is easy to review."""
    models = {name: _as_yaml(locked[name], order.models[name]) for name in order.models if name in locked}
    body = yaml.dump({"version": 1, "models": models}, Dumper=_Dumper, sort_keys=False, explicit_start=True)
    write_text(path, _HEADER + body)


class _Dumper(yaml.SafeDumper):
    """Indents lists below their key, as yamllint wants."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _as_yaml(entry: LockedModel, model: Model) -> dict[str, Any]:
    result: dict[str, Any] = {"repo": entry.repo, "revision": entry.revision}
    if entry.ref is not None:
        result["ref"] = entry.ref
    if model.file is None:
        result["select"] = list(entry.select)
    result["files"] = [
        {"path": file.path, "size": file.size, "sha256": file.sha256}
        | ({"git_blob": file.git_blob} if file.sha256 is None else {})
        for file in sorted(entry.files, key=lambda file: file.path)
    ]
    return result


def _locked_model(value: Value) -> LockedModel:
    entries = value.mapping(("repo", "revision", "ref", "select", "files"), ("repo", "revision", "files"))
    files = tuple(_locked_file(item) for item in entries["files"].sequence())
    if not files:
        raise entries["files"].error("lists no file")
    if "select" not in entries and len(files) != 1:
        raise entries["files"].error(f"lists {len(files)} files, but there are no patterns in 'select'")
    select = (
        [item.string() for item in entries["select"].sequence()] if "select" in entries else [files[0].path]
    )
    return LockedModel(
        repo=entries["repo"].string(),
        revision=_digest(entries["revision"], _COMMIT, "a commit of 40 hexadecimal digits"),
        select=tuple(select),
        ref=entries["ref"].string() if "ref" in entries else None,
        files=files,
    )


def _locked_file(value: Value) -> LockedFile:
    entries = value.mapping(("path", "size", "sha256", "git_blob"), ("path", "size", "sha256"))
    path = entries["path"].string()
    if problem := path_problem(path):
        raise entries["path"].error(f"'{path}' {problem}")
    sha256, git_blob = entries["sha256"], entries.get("git_blob")
    return LockedFile(
        path=path,
        size=entries["size"].integer(),
        sha256=None if sha256.is_null() else _digest(sha256, _SHA256, "a sha256 of 64 hexadecimal digits"),
        git_blob=_digest(git_blob, _COMMIT, "a git blob id of 40 hexadecimal digits") if git_blob else None,
    )


def _digest(value: Value, pattern: re.Pattern[str], wanted: str) -> str:
    text = value.string()
    if not pattern.match(text):
        raise value.error(f"must be {wanted}, not '{text}'")
    return text


def missing_from(models: list[Model], locked: Mapping[str, LockedModel]) -> list[str]:
    """Return the names of the models that are not locked."""
    return [model.name for model in models if model.name not in locked]


def require(models: list[Model], locked: Mapping[str, LockedModel], path: Path) -> None:
    """Raise BadInput when a model is not locked, for `--require-lock`."""
    if names := missing_from(models, locked):
        raise BadInput(f"{path}: not locked: {', '.join(names)}; run `ltxops models lock`")
