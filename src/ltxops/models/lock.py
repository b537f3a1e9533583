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
from ltxops.models.manifest import Manifest, overlay_path
from ltxops.models.model import Model, path_problem
from ltxops.models.strictyaml import Value

_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_HEADER = """# Revision, size (bytes) and sha256 of the weights in {manifest}, for people to review.
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
    """What a model's name stood for when it was resolved; all but `revision` and `files` repeat the manifest.

    A model with a `url` or a `path` has neither repository nor revision: both are empty.
    """

    repo: str
    revision: str
    select: tuple[str, ...]
    ref: str | None
    files: tuple[LockedFile, ...]
    url: str | None = None
    path: str | None = None

    def fits(self, model: Model) -> bool:
        """Tell whether `model` still asks for what was resolved."""
        asked = (model.repo, model.url, model.path, selection(model), model.revision)
        return (self.repo, self.url, self.path, self.select, self.ref) == asked


def selection(model: Model) -> tuple[str, ...]:
    """Return the file, or the patterns, that a model asks for."""
    return (model.file,) if model.file is not None else model.files


def lock_path(manifest: Path) -> Path:
    """Return where the lock of a manifest lies: `x/models.yaml` has `x/models.lock.yaml`."""
    return manifest.with_name(f"{manifest.stem}.lock.yaml")


def lock_paths(manifest: Manifest) -> list[Path]:
    """Return where the locks of a manifest and of its overlay lie."""
    return [lock_path(manifest.path), lock_path(overlay_path(manifest.path))]


def load(manifest: Manifest, *, fitting: bool = True) -> dict[str, LockedModel]:
    """Return the locked models by name, those of the overlay among them; empty when there is no lock.

    Raises BadInput for a damaged lock and, when `fitting`, for an entry that no longer fits the manifest (to
    ignore it would silently unpin that model) and for a file of no repository without one.
    """
    main, local = lock_paths(manifest)
    locked = _load_one(main, manifest, fitting)
    of_overlay = _load_one(local, manifest, fitting) if manifest.local else {}
    # Each lock speaks for its own manifest alone, whatever names are left over in the other.
    merged = {name: entry for name, entry in locked.items() if name not in manifest.local}
    merged |= {name: entry for name, entry in of_overlay.items() if name in manifest.local}
    if fitting:
        require_direct(manifest, merged)
    return merged


def require_direct(manifest: Manifest, locked: Mapping[str, LockedModel]) -> None:
    """Raise BadInput for a file of no repository that is not locked: no hub can say what it is."""
    for name, model in manifest.models.items():
        if not model.repo and (name not in locked or not locked[name].fits(model)):
            main, local = lock_paths(manifest)
            raise BadInput(
                f"{local if name in manifest.local else main}: model '{name}' from {model.source} is not "
                "locked, so nothing says what its bytes must be; remove it there and add it again with "
                "`ltxops models add`"
            )


def leftovers(manifest: Manifest) -> list[str]:
    """Return the names in the locks that their manifests do not have (any more)."""
    main, local = lock_paths(manifest)
    own = {main: manifest.models.keys() - manifest.local, local: manifest.local}
    return [
        name
        for path, names in own.items()
        for name in _load_one(path, manifest, fitting=False)
        if name not in names
    ]


def _load_one(path: Path, manifest: Manifest, fitting: bool) -> dict[str, LockedModel]:
    if not path.exists():
        return {}
    root = strictyaml.read(path).mapping(("version", "models"), ("version", "models"))
    if root["version"].integer() != 1:
        raise root["version"].error("must be 1; a newer ltxops wrote this lock")
    local = path == lock_path(overlay_path(manifest.path))
    locked = {}
    for name, value in root["models"].mapping().items():
        entry = _locked_model(value)
        model = manifest.models.get(name)
        if fitting and model is not None and local == (name in manifest.local) and not entry.fits(model):
            raise value.error(
                f"does not fit {manifest.path} any more; run `ltxops models lock` and review it"
            )
        locked[name] = entry
    return locked


def save(path: Path, locked: Mapping[str, LockedModel], order: Manifest) -> None:
    """Write the lock atomically, in the order of the manifest so that a change is easy to review."""
    models = {name: _as_yaml(locked[name], order.models[name]) for name in order.models if name in locked}
    body = yaml.dump({"version": 1, "models": models}, Dumper=_Dumper, sort_keys=False, explicit_start=True)
    manifest = path.name.replace(".lock.yaml", ".yaml")
    write_text(path, _HEADER.format(manifest=manifest) + body)


def save_both(manifest: Manifest, locked: Mapping[str, LockedModel]) -> None:
    """Write the lock of the manifest, and that of its overlay where there is one."""
    main, local = lock_paths(manifest)
    save(main, {name: entry for name, entry in locked.items() if name not in manifest.local}, manifest)
    if manifest.local:
        save(local, {name: entry for name, entry in locked.items() if name in manifest.local}, manifest)


class _Dumper(yaml.SafeDumper):
    """Indents lists below their key, as yamllint wants."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _as_yaml(entry: LockedModel, model: Model) -> dict[str, Any]:
    result: dict[str, Any] = _source_as_yaml(entry)
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


def _source_as_yaml(entry: LockedModel) -> dict[str, str]:
    if entry.url is not None:
        return {"url": entry.url}
    return (
        {"path": entry.path} if entry.path is not None else {"repo": entry.repo, "revision": entry.revision}
    )


def _locked_model(value: Value) -> LockedModel:
    entries = value.mapping(("repo", "revision", "url", "path", "ref", "select", "files"), ("files",))
    direct = [key for key in ("url", "path") if key in entries]
    if not direct:
        value.mapping(required=("repo", "revision"))
    elif len(direct) > 1 or {"repo", "revision", "ref", "select"} & entries.keys():
        raise value.error(f"has '{direct[0]}', so it can have 'files' beside it and nothing else")
    files = tuple(_locked_file(item) for item in entries["files"].sequence())
    if not files:
        raise entries["files"].error("lists no file")
    if "select" not in entries and len(files) != 1:
        raise entries["files"].error(f"lists {len(files)} files, but there are no patterns in 'select'")
    select = (
        [item.string() for item in entries["select"].sequence()] if "select" in entries else [files[0].path]
    )
    return LockedModel(
        repo="" if direct else entries["repo"].string(),
        revision="" if direct else _digest(entries["revision"], _COMMIT, "a commit of 40 hexadecimal digits"),
        select=tuple(select),
        ref=_text(entries, "ref"),
        files=files,
        url=_text(entries, "url"),
        path=_text(entries, "path"),
    )


def _text(entries: Mapping[str, Value], key: str) -> str | None:
    return entries[key].string() if key in entries else None


def _locked_file(value: Value) -> LockedFile:
    entries = value.mapping(("path", "size", "sha256", "git_blob"), ("path", "size", "sha256"))
    path = entries["path"].string()
    if problem := path_problem(path):
        raise entries["path"].error(f"'{path}' {problem}")
    sha256, git_blob = entries["sha256"], entries.get("git_blob")
    if sha256.is_null() and git_blob is None:
        raise sha256.error("must be a sha256, or there must be a git_blob, to prove the bytes by")
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
