"""What a name stands for on a hub: commit, size and hash of files, and whether this account may have them.

Uses huggingface_hub for its listings and metadata, with no cache, no telemetry and no token other than the
one given. Its exceptions are turned into those of ltxops here and nowhere else.
"""

import logging
import re
from collections.abc import Callable
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import get_hf_file_metadata
from huggingface_hub.hf_api import RepoFile

from ltxops import __version__
from ltxops.errors import BadInput, IntegrityError, LtxopsError, NetworkError
from ltxops.models import refusals
from ltxops.models.hub import Hub
from ltxops.models.lock import LockedFile, LockedModel, selection
from ltxops.models.model import Model, path_problem
from ltxops.models.retry import PASSING_STATUS, Passing, asked_wait_seconds, retried

Result = TypeVar("Result")

constants.HF_HUB_DISABLE_TELEMETRY = True
# Its warnings about each retry would tear the progress display; a failure that lasts is raised.
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def resolve(hub: Hub, model: Model) -> LockedModel:
    """Ask `hub` alone what `model` stands for now. Raises AccessDenied, BadInput, NetworkError."""
    revision, files = _patterns(hub, model) if model.file is None else _single(hub, model, model.file)
    return LockedModel(model.repo, revision, selection(model), model.revision, tuple(files))


def check_access(hub: Hub, repo: str, revision: str, path: str) -> None:
    """Ask `hub` alone for a file's metadata. Raises AccessDenied, BadInput, NetworkError."""
    url = hub.file_url(repo, revision, path)
    _try(hub, repo, lambda: get_hf_file_metadata(url, token=_auth(hub)))


def _single(hub: Hub, model: Model, path: str) -> tuple[str, list[LockedFile]]:
    url = hub.file_url(model.repo, model.revision or "main", path)
    found = _try(hub, model.repo, lambda: get_hf_file_metadata(url, token=_auth(hub)))
    if found.commit_hash is None or found.size is None:
        raise NetworkError(
            f"{hub.url} does not answer like a Hugging Face hub: {url} came without commit or size"
        )
    return found.commit_hash, [_from_etag(path, found.size, found.etag)]


def _patterns(hub: Hub, model: Model) -> tuple[str, list[LockedFile]]:
    api = HfApi(endpoint=hub.url, token=_auth(hub), library_name="ltxops", library_version=__version__)

    def listing() -> tuple[str, list[LockedFile]]:
        commit = api.model_info(
            model.repo, revision=model.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
        ).sha
        if commit is None:
            raise NetworkError(
                f"{hub.url} does not answer like a Hugging Face hub: {model.repo} has no commit"
            )
        tree = api.list_repo_tree(model.repo, recursive=True, revision=commit)
        return commit, [_from_tree(item) for item in tree if isinstance(item, RepoFile)]

    commit, everything = _try(hub, model.repo, listing)
    files = sorted((file for file in everything if model.selects(file.path)), key=lambda file: file.path)
    if not files:
        wanted = ", ".join(model.files)
        raise BadInput(f"model '{model.name}': nothing in {model.repo} at {commit} matches {wanted}")
    for file in files:
        if problem := path_problem(file.path):
            raise BadInput(f"model '{model.name}': {hub.url} lists '{file.path}', which {problem}")
    return commit, files


def _auth(hub: Hub) -> str | bool:
    # False keeps the library from looking for a token of its own on this machine.
    return hub.token or False


def _try(hub: Hub, repo: str, call: Callable[[], Result]) -> Result:
    """Run `call` until it works, `hub.attempts` times at most."""
    attempts = 0

    def attempt() -> Result:
        nonlocal attempts
        attempts += 1
        try:
            return call()
        except (httpx2.RequestError, HfHubHTTPError, EntryNotFoundError, OfflineModeIsEnabled) as error:
            explained = _explain(hub, repo, error, attempts)
            if _passing(error) and attempts < hub.attempts:
                raise Passing(str(explained), _asked_wait_seconds(error)) from error
            raise explained from error

    return retried(attempt, attempts=hub.attempts, first_wait_seconds=hub.backoff_seconds)


def _asked_wait_seconds(error: Exception) -> float | None:
    if not isinstance(error, HfHubHTTPError):
        return None
    return asked_wait_seconds(error.response.headers.get("retry-after"))


def _explain(hub: Hub, repo: str, error: Exception, failures: int) -> LtxopsError:
    if isinstance(error, OfflineModeIsEnabled):
        return refusals.offline(hub.url)
    if not isinstance(error, HfHubHTTPError):
        return refusals.unreachable(hub.url, failures, str(error) or type(error).__name__)
    code = error.response.headers.get("x-error-code")
    if isinstance(error, GatedRepoError):
        code = "GatedRepo"
    elif isinstance(error, RevisionNotFoundError | EntryNotFoundError):
        code = "EntryNotFound"
    return refusals.explain(
        hub=hub.url,
        repo=repo,
        asked=str(error.response.request.url),
        status=error.response.status_code,
        code=code,
        has_token=bool(hub.token),
        attempts=failures,
    )


def _passing(error: Exception) -> bool:
    """Tell whether the failure may be gone at the next try."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in PASSING_STATUS
    return isinstance(error, httpx2.RequestError)


def _from_tree(item: RepoFile) -> LockedFile:
    if item.lfs is not None:
        return LockedFile(item.path, item.lfs.size, sha256=item.lfs.sha256)
    return LockedFile(item.path, item.size, git_blob=item.blob_id)


def _from_etag(path: str, size: int, etag: str | None) -> LockedFile:
    """Read the hub's ETag: sha256 for files in large file storage, git's blob id for the others."""
    if etag and re.fullmatch("[0-9a-f]{64}", etag):
        return LockedFile(path, size, sha256=etag)
    if etag and re.fullmatch("[0-9a-f]{40}", etag):
        return LockedFile(path, size, git_blob=etag)
    raise IntegrityError(
        f"the hub gives no hash for {path} (ETag {etag!r}), so its bytes could not be proven"
    )
