"""Where a weight comes from, as people write it: a repository's file, a link, or a file at hand."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from ltxops.errors import BadInput

REPOSITORY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*\Z")

_HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
_SECRETS = frozenset({"token", "access_token", "api_key", "apikey", "key", "password", "secret", "sig"})
_SIGNATURES = frozenset({"signature", "x-amz-signature", "x-goog-signature"})


@dataclass(frozen=True)
class HubAddress:
    """A repository, or one `file` of it; `revision` is None for the default branch."""

    repo: str
    file: str | None
    revision: str | None


@dataclass(frozen=True)
class LinkAddress:
    """A link to a file that no hub describes."""

    url: str


@dataclass(frozen=True)
class PathAddress:
    """A file on this machine."""

    path: str


Address = HubAddress | LinkAddress | PathAddress


def parse(text: str, hub_url: str) -> Address:
    """Tell what `text` means. Raises BadInput.

    Pages of the hub (`/blob/`, `/resolve/`, `/raw/`, `/tree/`) mean the repository's file, also those of
    `hub_url`, a mirror. What starts with `/`, `./`, `../` or `~` is a path; so is a name without a colon
    that ends in `.safetensors`.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        parts = urlsplit(text)
        if parts.netloc == urlsplit(hub_url).netloc or parts.hostname in _HUB_HOSTS:
            return _hub_page(text, [unquote(part) for part in parts.path.split("/") if part])
        if problem := url_problem(text):
            raise BadInput(f"{shown(text)} {problem}")
        return LinkAddress(text)
    if text.startswith(("/", "./", "../", "~")) or (text.endswith(".safetensors") and ":" not in text):
        return PathAddress(text)
    return _repository(text)


def url_problem(url: str) -> str | None:
    """Say why `url` cannot be a weight's source; None when it can.

    Bytes that somebody could change on their way are taken from this machine alone. A secret has no place in
    a manifest, which everybody on a host may read.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("https", "http") or not host or not url.isprintable() or " " in url:
        return "is not a URL that starts with https:// and names a host"
    if parts.scheme == "http" and not is_loopback(host):
        return "is plain http, which anybody on the way can change; give an https:// address"
    if parts.username is not None or parts.password is not None:
        return "carries a user name; download the file yourself and add it by its path"
    keys = {key.lower() for key, _ in parse_qsl(parts.query, keep_blank_values=True)}
    if keys & (_SECRETS | _SIGNATURES):
        return (
            "carries a secret in its query, which would be kept where others can read it; download the file "
            "yourself and add it by its path"
        )
    return None


def is_loopback(host: str) -> bool:
    """Tell whether `host` is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def last_part(address: str) -> str:
    """Return the file name at the end of a URL or a path; empty when there is none."""
    path = unquote(urlsplit(address).path) if "://" in address else address
    return path.rsplit("/", 1)[-1]


def shown(url: str) -> str:
    """Return `url` as it may be shown: without the query and the user, which can hold a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _hub_page(text: str, parts: list[str]) -> HubAddress:
    if len(parts) == 2:
        return HubAddress("/".join(parts), None, None)
    if len(parts) >= 4 and parts[2] in ("blob", "resolve", "raw", "tree"):
        file = "/".join(parts[4:]) or None
        if (file is None) == (parts[2] == "tree"):
            return HubAddress("/".join(parts[:2]), file, None if parts[3] == "main" else parts[3])
    raise BadInput(
        f"{shown(text)} is not the page of a file; give OWNER/REPO:FILE, or the address of the file's page"
    )


def _repository(text: str) -> HubAddress:
    # A file's name may hold an @; a revision does not end like a file.
    name, at, revision = text.rpartition("@")
    if not at or revision.endswith(".safetensors"):
        name, revision = text, ""
    repo, colon, file = name.partition(":")
    if not REPOSITORY_NAME.match(repo) or (at and revision == name) or (colon and not file):
        raise BadInput(
            f"'{text}' is not OWNER/REPO, OWNER/REPO:FILE, OWNER/REPO:FILE@REVISION, an https:// address or "
            "the path of a file"
        )
    return HubAddress(repo, file or None, revision or None)
