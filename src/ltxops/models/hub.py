"""The hub that weights come from, and its mirrors: where a file is asked for, and with which headers."""

import os
from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import quote, urlsplit

from ltxops import __version__
from ltxops.errors import BadInput, LtxopsError, NetworkError
from ltxops.models.connection import origin_of
from ltxops.models.lock import LockedModel
from ltxops.models.model import Model

Result = TypeVar("Result")

_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


class Hub:
    """A Hugging Face hub at `url`, and the URLs of `mirrors` to ask, in order, when it does not deliver.

    The token is the first hub's and is sent to no other. A call is tried `attempts` times on each hub; the
    wait after a failure starts at `backoff_seconds` and doubles, with jitter, unless the hub asks for another
    one in Retry-After. `resolve` and `check_access` raise AccessDenied, BadInput, NetworkError.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        mirrors: Sequence[str] = (),
        attempts: int = 4,
        backoff_seconds: float = 0.5,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInput(f"the hub's URL must start with http:// or https:// and name a host, not '{url}'")
        self.url = url.rstrip("/")
        self.token = token
        self.attempts = attempts
        self.backoff_seconds = backoff_seconds
        self.mirrors = [
            Hub(mirror, None, attempts=attempts, backoff_seconds=backoff_seconds) for mirror in mirrors
        ]

    @property
    def chain(self) -> "list[Hub]":
        """This hub and its mirrors, in the order in which they are asked."""
        return [self, *self.mirrors]

    def resolve(self, model: Model) -> LockedModel:
        """Return the commit, and the size and hash of each file, that `model` stands for now."""
        # Imported when it is needed: the library behind it takes longer to load than a warm sync to run.
        from ltxops.models import metadata

        return self._first(lambda hub: metadata.resolve(hub, model))

    def check_access(self, repo: str, revision: str, path: str) -> None:
        """Ask for a file's metadata, so that a gate is met before hours of other downloads."""
        from ltxops.models import metadata

        self._first(lambda hub: metadata.check_access(hub, repo, revision, path))

    def file_url(self, repo: str, revision: str, path: str) -> str:
        """Return where the hub gives a file, or the link to it."""
        return f"{self.url}/{repo}/resolve/{quote(revision, safe='')}/{quote(path)}"

    def headers_for(self, url: str) -> dict[str, str]:
        """Return the headers for a request to `url`; the token goes to the hub's own origin alone."""
        headers = {"User-Agent": f"ltxops/{__version__}"}
        if self.token and origin_of(url) == origin_of(self.url):
            headers["Authorization"] = f"Bearer {self.token}"
        return headers

    def _first(self, ask: "Callable[[Hub], Result]") -> Result:
        """Return what the first hub that can be asked, and has it, answers; else raise the first's error."""
        errors: list[LtxopsError] = []
        for hub in self.chain:
            try:
                return ask(hub)
            except (NetworkError, BadInput) as error:
                errors.append(error)
        raise errors[0]


def forbidden_by_environment() -> bool:
    """Tell whether the user forbade the use of the hub with HF_HUB_OFFLINE."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE
