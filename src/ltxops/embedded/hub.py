"""A stand-in for the Hugging Face hub, for machines that cannot or should not reach the real one.

It serves a folder the way the hub does, as far as huggingface_hub needs: metadata headers, the redirect of
large files to a CDN with ranges, listings, gated repositories. The protocol follows huggingface_hub 2.4.0
and the hub's public answers. What it serves are tiny files (see `weights`), and it says so in everything
that it prints.
"""

import asyncio
import errno
import hashlib
import hmac
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web

from ltxops.embedded.weights import files_of, is_large
from ltxops.errors import BadInput, CheckFailed
from ltxops.models import manifest
from ltxops.models.durable import write_bytes
from ltxops.models.manifest import Manifest
from ltxops.models.model import Model

NAME = "embedded hub (stand-in for Hugging Face, tiny files)"

_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Entry:
    """One file of a repository. Its hashes are those of the moment when the hub started."""

    path: Path
    size: int
    sha256: str
    git_blob: str
    large: bool

    @property
    def etag(self) -> str:
        """The hash that the hub tells: sha256 in large file storage, else git's blob id."""
        return self.sha256 if self.large else self.git_blob


@dataclass
class Repository:
    """The files of one repository by path, at its only commit; `revisions` are the names that lead to it."""

    name: str
    gated: bool = False
    revisions: set[str] = field(default_factory=lambda: {"main"})
    files: dict[str, Entry] = field(default_factory=dict)
    commit: str = ""


def write_missing(wanted: Manifest, root: Path) -> None:
    """Write the stand-in files of every model under ROOT/OWNER/NAME; files already there stay."""
    for model in _hosted(wanted):
        for name, content in files_of(model).items():
            path = root / model.repo / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(path, content)


def read_repositories(wanted: Manifest, root: Path) -> dict[str, Repository]:
    """Hash what lies under `root` and return the repositories of the manifest by name."""
    repositories: dict[str, Repository] = {}
    for model in _hosted(wanted):
        repository = repositories.setdefault(model.repo, Repository(model.repo))
        repository.gated |= model.gated
        if model.revision is not None:
            repository.revisions.add(model.revision)
    for repository in repositories.values():
        folder = root / repository.name
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            repository.files[name] = _entry(path, large=is_large(name))
        listing = "".join(f"{name} {entry.sha256}\n" for name, entry in repository.files.items())
        # The same files make the same commit on every machine, so that a lock made from it stays right.
        repository.commit = hashlib.sha1(
            f"{repository.name}\n{listing}".encode(), usedforsecurity=False
        ).hexdigest()
        repository.revisions.add(repository.commit)
    return repositories


def _hosted(wanted: Manifest) -> list[Model]:
    return [model for model in wanted.models.values() if model.repo]


def _entry(path: Path, *, large: bool) -> Entry:
    size = path.stat().st_size
    sha256 = hashlib.sha256()
    blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            sha256.update(chunk)
            blob.update(chunk)
    return Entry(path, size, sha256.hexdigest(), blob.hexdigest(), large)


class EmbeddedHub:
    """The HTTP side. `token` is the one that opens gated repositories; without it nothing does.

    `cdn_url` is where large files are redirected to, by default this server itself; `sign` makes a new link
    for each redirect, as the hub does with links that expire.
    """

    def __init__(
        self,
        repositories: dict[str, Repository],
        token: str | None,
        cdn_url: str = "",
        sign: Callable[[str], str] = str,
    ) -> None:
        self._repositories = repositories
        self._token = token
        self._cdn_url = cdn_url
        self._sign = sign

    def app(self) -> web.Application:
        """Return the application, ready to be run."""
        app = web.Application(middlewares=[_log])
        app.router.add_get("/", self._front)
        app.router.add_get("/{owner}/{name}/resolve/{revision}/{path:.+}", self._resolve)
        app.router.add_get("/cdn/{owner}/{name}/{revision}/{path:.+}", self._cdn)
        app.router.add_get("/api/models/{owner}/{name}", self._info)
        app.router.add_get("/api/models/{owner}/{name}/revision/{revision}", self._info)
        app.router.add_get("/api/models/{owner}/{name}/tree/{revision}", self._tree)
        return app

    async def _front(self, request: web.Request) -> web.Response:
        listed = "\n".join(sorted(self._repositories))
        return web.Response(text=f"{NAME}\n\n{listed}\n")

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        repository = self._repository(request, behind_gate=True)
        name = request.match_info["path"]
        entry = _find(repository, name)
        headers = {"X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        if not entry.large:
            return web.Response(
                body=entry.path.read_bytes(),
                headers=headers | {"ETag": f'"{entry.etag}"'},
                content_type="text/plain",
            )
        location = self._sign(f"{self._cdn_url}/cdn/{repository.name}/{repository.commit}/{quote(name)}")
        return web.Response(status=302, headers=headers | _linked(entry) | {"Location": location})

    async def _cdn(self, request: web.Request) -> web.StreamResponse:
        # Like the real CDN it asks for no token: whoever was given the link may read. The commit and the
        # hash are here as well because a client follows a redirect to the same host when it asks for
        # metadata.
        repository = self._repositories.get(f"{request.match_info['owner']}/{request.match_info['name']}")
        if repository is None or request.match_info["revision"] != repository.commit:
            raise web.HTTPNotFound(text="no such object\n")
        entry = _find(repository, request.match_info["path"])
        return web.FileResponse(entry.path, headers={"X-Repo-Commit": repository.commit} | _linked(entry))

    async def _info(self, request: web.Request) -> web.Response:
        repository = self._repository(request)
        return web.json_response(
            {
                "_id": repository.commit[:24],
                "id": repository.name,
                "modelId": repository.name,
                "sha": repository.commit,
                "private": False,
                "gated": "auto" if repository.gated else False,
                "tags": ["stand-in"],
                "siblings": [{"rfilename": name} for name in repository.files],
            }
        )

    async def _tree(self, request: web.Request) -> web.Response:
        repository = self._repository(request)
        recursive = request.query.get("recursive", "").lower() in ("true", "1")
        items: list[dict[str, Any]] = [_tree_item(name, entry) for name, entry in repository.files.items()]
        if not recursive:
            items = [item for item in items if "/" not in item["path"]]
        return web.json_response(items)

    def _repository(self, request: web.Request, *, behind_gate: bool = False) -> Repository:
        """Return the repository asked for, or raise the refusal that the hub would give."""
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else ""
        known = self._token is not None and hmac.compare_digest(given.encode(), self._token.encode())
        if given and self._token is not None and not known:
            raise _refusal(web.HTTPUnauthorized, None, "Invalid credentials in Authorization header")
        repository = self._repositories.get(name)
        if repository is None:
            # Without a token the hub does not tell a private repository from one that does not exist.
            kind = web.HTTPNotFound if given else web.HTTPUnauthorized
            raise _refusal(kind, "RepoNotFound", "Repository not found")
        if behind_gate and repository.gated and not known:
            text = f"Access to model {name} is restricted. Ask for access on its page."
            raise _refusal(web.HTTPForbidden if given else web.HTTPUnauthorized, "GatedRepo", text)
        revision = request.match_info.get("revision", "main")
        if revision not in repository.revisions:
            raise _refusal(web.HTTPNotFound, "RevisionNotFound", f"Invalid rev id: {revision!r}")
        return repository


def _refusal(kind: type[web.HTTPClientError], code: str | None, message: str) -> web.HTTPClientError:
    # A header cannot carry what a URL can, so the message is reduced to plain ASCII.
    text = message.encode("ascii", "replace").decode()
    headers = {"X-Error-Message": text} | ({"X-Error-Code": code} if code else {})
    return kind(
        headers=headers, text=f'{{"error": "{code or "refused"}"}}\n', content_type="application/json"
    )


def _find(repository: Repository, name: str) -> Entry:
    """Return a file by its path; only what was listed at the start is ever opened."""
    entry = repository.files.get(name)
    if entry is None:
        raise _refusal(web.HTTPNotFound, "EntryNotFound", "Entry not found")
    return entry


def _linked(entry: Entry) -> dict[str, str]:
    return {"X-Linked-Etag": f'"{entry.etag}"', "X-Linked-Size": str(entry.size)}


def _tree_item(name: str, entry: Entry) -> dict[str, Any]:
    item = {"type": "file", "path": name, "size": entry.size, "oid": entry.git_blob}
    if not entry.large:
        return item
    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{entry.sha256}\nsize {entry.size}\n".encode()
    )
    oid = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer, usedforsecurity=False).hexdigest()
    return item | {"oid": oid, "lfs": {"oid": entry.sha256, "size": entry.size, "pointerSize": len(pointer)}}


@web.middleware
async def _log(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    status = 500
    try:
        response = await handler(request)
        status = response.status
        return response
    except web.HTTPException as refusal:
        status = refusal.status
        raise
    finally:
        print(f"{NAME}: {request.method} {request.rel_url.raw_path} {status}", file=sys.stderr, flush=True)


def serve(manifest_path: Path, root: Path, host: str, port: int, token: str | None) -> int:
    """Serve the manifest's stand-in files on `host`:`port` until SIGTERM or SIGINT; return 0.

    Files that are not there yet are written under `root` first. Port 0 takes a free one. Raises BadInput for
    the manifest or the folder, CheckFailed when the port cannot be had.
    """
    wanted = manifest.load(manifest_path)
    try:
        write_missing(wanted, root)
        repositories = read_repositories(wanted, root)
    except OSError as error:
        raise BadInput(f"the folder {root} cannot be used: {error}") from error
    asyncio.run(run(EmbeddedHub(repositories, token).app(), host, port))
    return 0


async def run(app: web.Application, host: str, port: int) -> None:
    """Run `app` until SIGTERM or SIGINT and print its address. Raises CheckFailed as `serve` does."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = "is taken by another program" if taken else f"cannot be had: {error.strerror or error}"
            raise CheckFailed(
                f"port {port} on {host} {reason}; stop what uses it or give another --port"
            ) from error
        for address in _addresses(runner):
            print(f"{NAME}: http://{address}", flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()


def _addresses(runner: web.AppRunner) -> Iterator[str]:
    for address in runner.addresses:
        yield f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
