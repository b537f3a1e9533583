"""One model of a manifest: where its files come from, which they are, and where they go under the root."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ltxops.models.addresses import REPOSITORY_NAME, last_part, shown, url_problem
from ltxops.models.strictyaml import Value

#: Folder under the root that holds the store's own files; no weight may go there.
STATE_FOLDER = ".ltxops"

_OF_A_REPOSITORY = ("file", "files", "revision", "gated")
_KEYS = ("repo", "url", "path", "file", "files", "dest", "revision", "license", "gated")
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")


def path_problem(path: str) -> str | None:
    """Say why `path` is not a plain relative path that stays under its root; None when it is one."""
    if not path:
        return "is empty"
    if path.startswith("/"):
        return "is an absolute path; give one relative to ComfyUI's models folder"
    if "\\" in path or not path.isprintable():
        return "contains a backslash or a control character"
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "contains '..', '.' or an empty part, so it could leave the models folder"
    if parts[0] == STATE_FOLDER:
        return f"is inside {STATE_FOLDER}/, which belongs to ltxops"
    return None


@dataclass(frozen=True)
class Model:
    """One named set of files: a single `file` of a repository, or all that match the patterns `files`.

    `revision` is a branch, tag or commit, None for the default branch. `gated` says that the hub gives the
    files only to accounts that were granted access. A model that has a `url`, or the `path` of a file on the
    machine where it was added, comes from no repository: its `repo` is empty.
    """

    name: str
    repo: str
    file: str | None
    files: tuple[str, ...]
    dest: str
    revision: str | None = None
    license: str | None = None
    gated: bool = False
    url: str | None = None
    path: str | None = None

    @property
    def source(self) -> str:
        """Where it comes from, for messages and lists."""
        return self.repo or self.url or str(self.path)

    def selects(self, path: str) -> bool:
        """Tell whether `path`, relative to the repository, belongs to this model."""
        if self.file is not None:
            return path == self.file
        return any(fnmatchcase(path, pattern) for pattern in self.files)

    def destination(self, path: str) -> str:
        """Return where `path` of the repository goes, relative to the root.

        A pattern keeps the repository's folders below `dest`; a single file keeps only its own name, and a
        `dest` without a slash at its end renames it.
        """
        if not self.dest.endswith("/"):
            return self.dest
        return self.dest + (path if self.file is None else path.rsplit("/", 1)[-1])


def read_models(value: Value) -> dict[str, Model]:
    """Return the models of a file by name. Raises BadInput naming file, line and key."""
    return {name: _model(name, entry) for name, entry in value.mapping().items()}


def _model(name: str, value: Value) -> Model:
    if not MODEL_NAME.match(name):
        raise value.error("is not a model name: use letters, digits, '.', '_' and '-'")
    entries = value.mapping(_KEYS, ("dest",))
    sources = [key for key in ("repo", "url", "path") if key in entries]
    if len(sources) != 1:
        raise value.error("give one of 'repo', 'url' and 'path', and not more")
    if sources == ["repo"]:
        return _repository_model(name, value, entries)
    for key in _OF_A_REPOSITORY:
        if key in entries:
            raise entries[key].error(f"is for a file of a repository; this model has '{sources[0]}'")
    url = _url(entries["url"]) if "url" in entries else None
    path = _local_path(entries["path"]) if "path" in entries else None
    dest = _destination(entries["dest"], folder_only=False)
    file = last_part(url or str(path)) if dest.endswith("/") else last_part(dest)
    if path_problem(file):
        raise entries["dest"].error(f"must name the file, because {url or path} does not")
    return Model(name, "", file, (), dest, license=_optional(entries, "license"), url=url, path=path)


def _url(value: Value) -> str:
    if problem := url_problem(value.string()):
        raise value.error(f"{shown(value.string())} {problem}")
    return value.string()


def _local_path(value: Value) -> str:
    path = value.string()
    if not path.startswith("/") or not path.isprintable() or path_problem(last_part(path)):
        raise value.error(f"'{path}' must be the absolute path of a file")
    return path


def _repository_model(name: str, value: Value, entries: Mapping[str, Value]) -> Model:
    repo = entries["repo"].string()
    if not REPOSITORY_NAME.match(repo):
        raise entries["repo"].error(f"must be OWNER/NAME, not '{repo}'")
    if ("file" in entries) == ("files" in entries):
        raise value.error("give either 'file' or 'files', and not both")
    file = _checked_path(entries["file"]) if "file" in entries else None
    patterns = (
        tuple(_checked_path(item) for item in entries["files"].sequence()) if "files" in entries else ()
    )
    if file is None and not patterns:
        raise entries["files"].error("must name at least one file or pattern")
    return Model(
        name=name,
        repo=repo,
        file=file,
        files=patterns,
        dest=_destination(entries["dest"], folder_only=file is None),
        revision=_optional(entries, "revision"),
        license=_optional(entries, "license"),
        gated=entries["gated"].boolean() if "gated" in entries else False,
    )


def _optional(entries: Mapping[str, Value], key: str) -> str | None:
    return entries[key].string() if key in entries else None


def _checked_path(value: Value) -> str:
    path = value.string()
    if problem := path_problem(path):
        raise value.error(f"'{path}' {problem}")
    return path


def _destination(value: Value, *, folder_only: bool) -> str:
    dest = value.string()
    if problem := path_problem(dest[:-1] if dest.endswith("/") and dest != "/" else dest):
        raise value.error(f"'{dest}' {problem}")
    if folder_only and not dest.endswith("/"):
        raise value.error(
            f"'{dest}' must be a folder with a slash at its end, because 'files' can match several"
        )
    return dest
