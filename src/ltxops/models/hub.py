"""The hub that weights come from: what a name stands for there, and one file's bytes.

Uses huggingface_hub for its URLs, metadata and transfer, over plain HTTP, with no cache, no telemetry and no
token other than the one given. Its exceptions are turned into those of ltxops here and nowhere else.
"""

import logging
import random
import re
import time
from collections.abc import Callable
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import get_hf_file_metadata, http_get
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import disable_progress_bars

from ltxops import __version__
from ltxops.errors import AccessDenied, BadInput, IntegrityError, LtxopsError, NetworkError
from ltxops.models.lock import LockedFile, LockedModel, selection
from ltxops.models.manifest import Model, path_problem

Result = TypeVar("Result")

_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT_SECONDS = 60.0
_AGENT = {"user-agent": f"ltxops/{__version__}"}


class Hub:
    """A Hugging Face hub or a mirror of it at `url`.

    A call is tried `attempts` times; the wait after a failure starts at `backoff_seconds` and doubles, with
    jitter, unless the hub asks for another one in Retry-After. Every method raises AccessDenied, BadInput,
    NetworkError.
    """

    def __init__(
        self, url: str, token: str | None, *, attempts: int = 4, backoff_seconds: float = 0.5
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInput(f"the hub's URL must start with http:// or https:// and name a host, not '{url}'")
        self.url = url.rstrip("/")
        self._token = token
        self._attempts = attempts
        self._backoff_seconds = backoff_seconds
        constants.HF_HUB_DISABLE_TELEMETRY = True
        constants.HF_HUB_DISABLE_XET = True
        disable_progress_bars()
        # Its warnings about each retry would tear the progress display; a failure that lasts is raised.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)

    def resolve(self, model: Model) -> LockedModel:
        """Return the commit, and the size and hash of each file, that `model` stands for now."""
        revision, files = self._patterns(model) if model.file is None else self._single(model, model.file)
        return LockedModel(model.repo, revision, selection(model), model.revision, tuple(files))

    def check_access(self, repo: str, revision: str, path: str) -> None:
        """Ask for a file's metadata, so that a gate is met before hours of other downloads."""
        self._try(repo, lambda: get_hf_file_metadata(self._url_of(repo, revision, path), token=self._auth()))

    def download(self, repo: str, revision: str, file: LockedFile, sink: BinaryIO) -> None:
        """Write the rest of `file` to `sink`, which holds its first `sink.tell()` bytes.

        Always asks the hub itself, never a remembered link of its CDN: such links expire, and the HTTP client
        drops the token at a redirect to another host.
        """
        headers = self._headers() | {"accept-encoding": "identity"}

        def attempt() -> None:
            http_get(
                self._url_of(repo, revision, file.path),
                sink,
                resume_size=sink.tell(),
                headers=headers,
                expected_size=file.size,
                displayed_filename=file.path,
            )

        self._try(repo, attempt, progress=sink.tell)

    def _single(self, model: Model, path: str) -> tuple[str, list[LockedFile]]:
        url = self._url_of(model.repo, model.revision or "main", path)
        found = self._try(model.repo, lambda: get_hf_file_metadata(url, token=self._auth()))
        if found.commit_hash is None or found.size is None:
            raise NetworkError(
                f"{self.url} does not answer like a Hugging Face hub: {url} came without commit or size"
            )
        return found.commit_hash, [_from_etag(path, found.size, found.etag)]

    def _patterns(self, model: Model) -> tuple[str, list[LockedFile]]:
        api = HfApi(endpoint=self.url, token=self._auth(), library_name="ltxops", library_version=__version__)

        def listing() -> tuple[str, list[LockedFile]]:
            commit = api.model_info(
                model.repo, revision=model.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
            ).sha
            if commit is None:
                raise NetworkError(
                    f"{self.url} does not answer like a Hugging Face hub: {model.repo} has no commit"
                )
            tree = api.list_repo_tree(model.repo, recursive=True, revision=commit)
            return commit, [_from_tree(item) for item in tree if isinstance(item, RepoFile)]

        commit, everything = self._try(model.repo, listing)
        files = sorted((file for file in everything if model.selects(file.path)), key=lambda file: file.path)
        if not files:
            wanted = ", ".join(model.files)
            raise BadInput(f"model '{model.name}': nothing in {model.repo} at {commit} matches {wanted}")
        for file in files:
            if problem := path_problem(file.path):
                raise BadInput(f"model '{model.name}': {self.url} lists '{file.path}', which {problem}")
        return commit, files

    def _url_of(self, repo: str, revision: str, path: str) -> str:
        return hf_hub_url(repo, path, revision=revision, endpoint=self.url)

    def _auth(self) -> str | bool:
        # False keeps the library from looking for a token of its own on this machine.
        return self._token or False

    def _headers(self) -> dict[str, str]:
        return _AGENT | ({"authorization": f"Bearer {self._token}"} if self._token else {})

    def _try(self, repo: str, call: Callable[[], Result], progress: Callable[[], int] = lambda: 0) -> Result:
        """Run `call` until it works, `attempts` times at most without `progress` in between."""
        failures = 0
        while True:
            before = progress()
            try:
                return call()
            except LtxopsError:
                raise
            except (httpx2.RequestError, HfHubHTTPError, EntryNotFoundError, OfflineModeIsEnabled) as error:
                if not _passing(error):
                    raise self._explain(repo, error) from error
                failures = 1 if progress() > before else failures + 1
                if failures >= self._attempts:
                    raise self._explain(repo, error, failures) from error
                time.sleep(self._wait_seconds(failures, error))

    def _wait_seconds(self, failures: int, error: Exception) -> float:
        asked = ""
        if isinstance(error, HfHubHTTPError):
            asked = str(error.response.headers.get("retry-after", ""))
        if asked.isascii() and asked.isdigit():
            return min(float(asked), _LONGEST_WAIT_SECONDS)
        # Jitter keeps fifty hosts that were cut off together from returning together.
        doubled: float = self._backoff_seconds * 2 ** (failures - 1)
        return min(doubled, _LONGEST_WAIT_SECONDS) * random.uniform(0.75, 1.25)

    def _explain(self, repo: str, error: Exception, failures: int = 1) -> LtxopsError:
        page = f"{self.url}/{repo}"
        if isinstance(error, OfflineModeIsEnabled):
            return NetworkError(
                f"the hub {self.url} was not asked: HF_HUB_OFFLINE is set; unset it and run again"
            )
        if not isinstance(error, HfHubHTTPError):
            reason = str(error) or type(error).__name__
            return NetworkError(
                f"the hub {self.url} could not be reached in {failures} attempts ({reason}); check the "
                "network, or give another hub with --hub or HF_ENDPOINT, then run again: what has arrived "
                "is kept"
            )
        status = error.response.status_code
        if isinstance(error, GatedRepoError):
            token = "the token given has no access" if self._token else "no token was given"
            return AccessDenied(
                f"repository {repo} is gated and {token}; ask for access at {page} and give that account's "
                "token in HF_TOKEN or with --hf-token-file"
            )
        if status in (401, 403):
            token = "refused the token given" if self._token else "wants a token"
            return AccessDenied(
                f"the hub {token} for repository {repo} ({status}), or there is no such repository; check "
                f"it at {page} and the token in HF_TOKEN or --hf-token-file"
            )
        if isinstance(error, RevisionNotFoundError | EntryNotFoundError) or status == 404:
            return BadInput(
                f"{_path_of(error)} is not on the hub; check models.yaml and its lock against {page}"
            )
        return NetworkError(
            f"the hub answered {status} to {_path_of(error)} after {failures} attempts; try again later"
        )


def _passing(error: Exception) -> bool:
    """Tell whether the failure may be gone at the next try."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _PASSING_STATUS
    return isinstance(error, httpx2.RequestError)


def _path_of(error: HfHubHTTPError) -> str:
    # Without its query: a CDN's link carries a signature there.
    return str(error.response.request.url).split("?", 1)[0]


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
