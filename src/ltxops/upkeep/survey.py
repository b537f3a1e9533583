"""Look through an output folder without changing it: which files and folders are old, which are not.

The walk is relative to open descriptors, follows no link and stays on one mount.
"""

import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ltxops.errors import BadInput
from ltxops.upkeep.output_root import (
    FOLDER_FLAGS,
    KEPT_NAMES,
    MODELS,
    FileKey,
    OutputRoot,
    file_key,
    mount_id,
)

#: Folders of ComfyUI's models tree (its folder_paths.py); a folder `models` with one of them holds weights.
_CHECKPOINT_FOLDERS = frozenset(
    {
        "checkpoints",
        "clip",
        "controlnet",
        "diffusion_models",
        "latent_upscale_models",
        "loras",
        "text_encoders",
        "unet",
        "upscale_models",
        "vae",
    }
)


class Replaced(Exception):
    """A folder is not the one that was seen before: it was swapped while the run went on."""


@dataclass(eq=False)
class Folder:
    """A folder below the root (or the root, without parent), as it was when first seen."""

    parent: "Folder | None"
    name: str
    key: FileKey
    mtime_ns: int
    ctime_ns: int
    entries: int = 0
    """How many entries it has; whoever removes one counts down, so that an emptied folder is known."""

    @property
    def path(self) -> str:
        """Path relative to the root, empty for the root."""
        names = []
        folder = self
        while folder.parent is not None:
            names.append(folder.name)
            folder = folder.parent
        return "/".join(reversed(names))

    def join(self, name: str) -> str:
        """Path of an entry of this folder, relative to the root."""
        return posixpath.join(self.path, name)


@dataclass(eq=False)
class OldFile:
    """One file (an inode) that is old enough to go, with every name of it that lies under the root."""

    key: FileKey
    bytes: int
    """What the disk gets back when its last name goes: allocated blocks, not the length of a sparse file."""
    links: int
    mtime_ns: int
    ctime_ns: int
    names: list[tuple[Folder, str]] = field(default_factory=list)


@dataclass
class Survey:
    """What lies under a root."""

    files: dict[FileKey, OldFile] = field(default_factory=dict)
    folders: list[Folder] = field(default_factory=list)
    """Old folders, parents before children, without the root."""
    links: list[tuple[Folder, str, str]] = field(default_factory=list)
    """Symbolic links as folder, name, and the path they mean (relative to the root, `..` if it leaves it)."""
    young: int = 0
    problems: list[str] = field(default_factory=list)


def changed_at(mtime_ns: int, ctime_ns: int, now_ns: int) -> int:
    """Return when a file last changed, in nanoseconds since the epoch.

    The later of mtime and ctime: a file copied in with an old mtime is new by its ctime, which only the
    kernel sets. An mtime in the future says nothing, so the ctime alone decides; a ctime in the future keeps
    the file.
    """
    return ctime_ns if mtime_ns > now_ns else max(mtime_ns, ctime_ns)


def survey(root: OutputRoot, now_ns: int, age_ns: int) -> Survey:
    """Walk the tree below `root` and sort it by age.

    Raises BadInput when a folder of weights lies in it.
    """
    found = Survey()
    info = os.fstat(root.fd)
    top = Folder(None, "", root.key, info.st_mtime_ns, info.st_ctime_ns)
    waiting = [top]
    cutoff = now_ns - age_ns
    while waiting:
        folder = waiting.pop()
        try:
            with opened(root, folder) as fd:
                if mount_id(fd) == root.mount_id:
                    if folder is not top and changed_at(folder.mtime_ns, folder.ctime_ns, now_ns) <= cutoff:
                        found.folders.append(folder)
                    waiting.extend(_sort_entries(root, folder, fd, found, now_ns, cutoff))
        except Replaced:
            found.problems.append(f"{printable(folder.path)} was replaced during the run and left alone")
        except FileNotFoundError:
            continue  # somebody else removed it
        except OSError as error:
            found.problems.append(f"{printable(folder.path)} cannot be read ({error.strerror})")
    return found


def _sort_entries(
    root: OutputRoot, folder: Folder, fd: int, found: Survey, now_ns: int, cutoff: int
) -> list[Folder]:
    """Put the entries of one folder where they belong; returns the folders to go into."""
    below = []
    with os.scandir(fd) as entries:
        for entry in entries:
            folder.entries += 1
            try:
                info = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(info.st_mode):
                if info.st_dev == root.key[0]:
                    child = Folder(folder, entry.name, file_key(info), info.st_mtime_ns, info.st_ctime_ns)
                    _refuse_weights(child)
                    below.append(child)
            elif stat.S_ISLNK(info.st_mode):
                found.links.append((folder, entry.name, _meaning(root, folder, entry.name, fd)))
            elif stat.S_ISREG(info.st_mode) and entry.name not in KEPT_NAMES:
                if changed_at(info.st_mtime_ns, info.st_ctime_ns, now_ns) > cutoff:
                    found.young += 1
                else:
                    _add(found, info).names.append((folder, entry.name))
    return below


def _add(found: Survey, info: os.stat_result) -> OldFile:
    key = file_key(info)
    if key not in found.files:
        found.files[key] = OldFile(
            key, info.st_blocks * 512, info.st_nlink, info.st_mtime_ns, info.st_ctime_ns
        )
    return found.files[key]


def _refuse_weights(folder: Folder) -> None:
    parent = folder.parent
    if parent is not None and parent.name == MODELS and folder.name in _CHECKPOINT_FOLDERS:
        raise BadInput(
            f"{printable(folder.path)} looks like a folder of weights: they are never cleaned, "
            "give a folder that holds only outputs"
        )


def _meaning(root: OutputRoot, folder: Folder, name: str, fd: int) -> str:
    try:
        target = os.readlink(name, dir_fd=fd)
    except OSError:
        return ""
    absolute = posixpath.normpath(posixpath.join(root.path, folder.path, target))
    relative = posixpath.relpath(absolute, root.path)
    return ".." if relative.startswith("../") else relative


@contextmanager
def opened(root: OutputRoot, folder: Folder) -> Iterator[int]:
    """Open `folder` by going down from the root, never through a link.

    Raises Replaced when what is there now is not the folder that was seen, FileNotFoundError when it is gone.
    """
    names = []
    step: Folder = folder
    while step.parent is not None:
        names.append(step.name)
        step = step.parent
    fd = os.open(".", FOLDER_FLAGS, dir_fd=root.fd)
    try:
        for name in reversed(names):
            try:
                below = os.open(name, FOLDER_FLAGS, dir_fd=fd)
            except NotADirectoryError:
                raise Replaced(folder.path) from None
            os.close(fd)
            fd = below
        if file_key(os.fstat(fd)) != folder.key:
            raise Replaced(folder.path)
        yield fd
    finally:
        os.close(fd)


def printable(path: str) -> str:
    """Return a file name that is safe to print: control characters and undecodable bytes are escaped."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
