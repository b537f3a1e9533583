"""Finding out what somebody wants to add, and that it is what it should be, before gigabytes come."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ltxops.errors import BadInput, IntegrityError
from ltxops.models import safetensors
from ltxops.models.addresses import Address, HubAddress, LinkAddress, PathAddress, last_part, shown
from ltxops.models.durable import disk_errors_explained
from ltxops.models.lock import LockedFile, LockedModel, selection
from ltxops.models.model import MODEL_NAME, STATE_FOLDER, Model, path_problem
from ltxops.models.plan import Wanted
from ltxops.models.proof import digest_of

if TYPE_CHECKING:
    from ltxops.models.hub import Hub
    from ltxops.models.link import Start
    from ltxops.models.store import Store

_FIRST_BYTES = 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Wish:
    """How it is to be added. `dest` is a folder with a slash at its end, or a path.

    `sha256` is what the bytes must be, where that is known; else `trust_first_use` allows a link without.
    """

    dest: str
    name: str | None = None
    sha256: str | None = None
    trust_first_use: bool = False

    def check(self) -> None:
        """Raise BadInput for what is wrong whatever is added."""
        if problem := path_problem(self.dest.removesuffix("/")):
            raise BadInput(f"--dest '{self.dest}' {problem}")
        if not self.dest.endswith("/"):
            safetensors.check_name(last_part(self.dest))
        if self.name is not None and not MODEL_NAME.match(self.name):
            raise BadInput(f"--name '{self.name}' is not a model name: use letters, digits, '.', '_' and '-'")
        if self.sha256 is not None and not _SHA256.match(self.sha256):
            raise BadInput(f"--sha256 must be 64 hexadecimal digits, not '{self.sha256}'")
        if self.sha256 is not None and self.trust_first_use:
            raise BadInput("give --sha256 or --trust-first-use, not both")


@dataclass(frozen=True)
class Candidate:
    """A file that can be added. It has no hash when its link promises none and none was given."""

    model: Model
    entry: LockedModel
    header: safetensors.Header

    @property
    def file(self) -> LockedFile:
        return self.entry.files[0]

    @property
    def wanted(self) -> Wanted:
        """The file as a sync wants it."""
        entry, model = self.entry, self.model
        dest = model.destination(self.file.path)
        return Wanted(
            model.name, model.repo, entry.revision, self.file, dest, model.gated, entry.url, entry.path
        )

    @property
    def proven_by(self) -> str | None:
        """The hash that the bytes must have; None when nobody knows it."""
        return self.file.sha256 or self.file.git_blob

    def with_sha256(self, sha256: str) -> "Candidate":
        """Return it with the hash that was found."""
        return replace(self, entry=replace(self.entry, files=(replace(self.file, sha256=sha256),)))


def find(
    address: Address, wish: Wish, *, hub: Callable[[], "Hub"], token: str | None, root: Path | None
) -> Candidate:
    """Return what `address` stands for, after a look at the beginning of the file and nothing more.

    A file at hand is hashed. Raises BadInput for anything but one safetensors file, IntegrityError when it is
    not the one that `wish` names, and what the hub or the link raise.
    """
    wish.check()
    if isinstance(address, HubAddress):
        return _on_hub(address, wish, hub(), token)
    if isinstance(address, LinkAddress):
        return _behind_link(address, wish)
    return _at_hand(address, wish, root)


def refuse_occupied(store: "Store", candidate: Candidate) -> None:
    """Raise BadInput when another file has the destination: a sync would replace it, and it is not ours."""
    path = store.root / candidate.wanted.dest
    store.check([candidate.wanted.dest])
    if not path.exists():
        return
    with disk_errors_explained(path):
        same = candidate.proven_by is not None and not digest_of(path, candidate.file).mismatch()
    if not same:
        raise BadInput(
            f"there is another file at {path}, which stays; give another --dest, or add that file by its "
            "path if it is the one you mean"
        )


def _on_hub(address: HubAddress, wish: Wish, hub: "Hub", token: str | None) -> Candidate:
    from huggingface_hub import hf_hub_url

    from ltxops.models.link import read_start

    if wish.trust_first_use:
        raise BadInput("--trust-first-use is for links; the hub tells what the bytes of its files must be")
    if address.file is not None:
        safetensors.check_name(last_part(address.file))
    everything = Model("", address.repo, None, ("*.safetensors",), "", address.revision)
    single = replace(everything, file=address.file, files=()) if address.file else everything
    found = hub.resolve(single)
    if len(found.files) != 1:
        listed = ", ".join(file.path for file in found.files)
        raise BadInput(
            f"{address.repo} has {len(found.files)} safetensors files: {listed}; "
            f"choose one: {address.repo}:FILE"
        )
    [file] = found.files
    if wish.sha256 is not None and file.sha256 != wish.sha256:
        raise IntegrityError(f"{address.repo} has {file.path} with {file.sha256}, not with {wish.sha256}")
    hub.check_access(address.repo, found.revision, file.path)
    url = hf_hub_url(address.repo, file.path, revision=found.revision, endpoint=hub.url)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    header, size = _look(lambda count: read_start(url, count, headers), f"{address.repo} {file.path}")
    if size != file.size:
        raise IntegrityError(f"{address.repo} {file.path} has {size} bytes, the hub promised {file.size}")
    model = Model(_name(wish, file.path), address.repo, file.path, (), wish.dest, revision=address.revision)
    entry = LockedModel(model.repo, found.revision, selection(model), model.revision, (file,))
    return Candidate(model, entry, header)


def _behind_link(address: LinkAddress, wish: Wish) -> Candidate:
    from ltxops.models.link import read_start

    url = address.url
    if wish.sha256 is None and not wish.trust_first_use:
        raise BadInput(
            f"{shown(url)} promises no hash: give --sha256 HEX as its page tells it, or --trust-first-use to "
            "take what comes now and pin that"
        )
    given = "" if wish.dest.endswith("/") else last_part(wish.dest)
    name = given or last_part(url)
    if name.lower().endswith(safetensors.PICKLES):
        safetensors.check_name(name)
    start = read_start(url, _FIRST_BYTES)
    if not name.lower().endswith(safetensors.SUFFIX):
        name = start.name or name
    header, size = _look(
        lambda count: start if count <= len(start.data) else read_start(url, count), shown(url)
    )
    if not name.lower().endswith(safetensors.SUFFIX) or path_problem(name):
        raise BadInput(
            f"{shown(url)} gives the file no name; give one with --dest {wish.dest}NAME.safetensors"
        )
    model = Model(_name(wish, name), "", name, (), _place(wish, name), url=url)
    file = LockedFile(name, size, sha256=wish.sha256)
    return Candidate(model, LockedModel("", "", (name,), None, (file,), url=url), header)


def _at_hand(address: PathAddress, wish: Wish, root: Path | None) -> Candidate:
    from ltxops.models.link import Start

    path = Path(address.path).expanduser().absolute()
    if wish.trust_first_use:
        raise BadInput("--trust-first-use is for links; a file at hand is hashed as it is")
    safetensors.check_name(path.name)
    if not path.is_file():
        raise BadInput(f"{path} is not a file")
    with disk_errors_explained(path):
        size = path.stat().st_size

        def read(count: int) -> Start:
            with path.open("rb") as stream:
                return Start(stream.read(count), size, None)

        header, _ = _look(read, str(path))
        digest = digest_of(path, LockedFile(path.name, size))
    if wish.sha256 is not None and digest.sha256 != wish.sha256:
        raise IntegrityError(f"{path} has sha256 {digest.sha256}, not {wish.sha256}")
    inside = _inside(path, root)
    place = inside or _place(wish, path.name)
    name = last_part(place)
    model = Model(_name(wish, name), "", name, (), place, path=str(path))
    file = LockedFile(name, size, sha256=digest.sha256)
    return Candidate(model, LockedModel("", "", (name,), None, (file,), path=str(path)), header)


def _inside(path: Path, root: Path | None) -> str | None:
    """Return the place of a file that lies under the root already."""
    if root is None or not path.is_relative_to(root.absolute()):
        return None
    place = path.relative_to(root.absolute()).as_posix()
    if problem := path_problem(place):
        raise BadInput(f"{path} {problem}")
    return None if place.startswith(f"{STATE_FOLDER}/") else place


def _look(read: Callable[[int], "Start"], what: str) -> tuple[safetensors.Header, int]:
    """Check a file's header; return it and the size of the file in bytes."""
    try:
        start = read(_FIRST_BYTES)
        needed = safetensors.header_bytes(start.data, start.size)
        if needed > len(start.data):
            start = read(needed)
        return safetensors.parse_header(start.data, start.size), start.size
    except ValueError as error:
        raise BadInput(f"{what} {error}; it was not added") from None


def _place(wish: Wish, name: str) -> str:
    return wish.dest + name if wish.dest.endswith("/") else wish.dest


def _name(wish: Wish, file: str) -> str:
    if wish.name is not None:
        return wish.name
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", last_part(file).rsplit(".", 1)[0]).strip("-._")[:128]
    if not MODEL_NAME.match(plain):
        raise BadInput(f"{file} makes no name for a model; give one with --name")
    return plain
