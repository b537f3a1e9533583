"""The one door to an output folder: proves that a folder may be cleaned and holds it open by descriptor.

Everything else works relative to that descriptor, so a path that is renamed or replaced later leads nowhere.
"""

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ltxops.errors import BadInput, CheckFailed
from ltxops.upkeep.disk import free_bytes

#: The file that says "outputs live here and may be deleted by age"; whoever sets up the folder writes it.
MARKER = ".ltxops-output"
#: Never deleted: our marker, and the placeholder that ComfyUI's repository tracks in `output`, without which
#: its checkout would count as modified.
KEPT_NAMES = frozenset({MARKER, "_output_images_will_be_put_here"})
#: ComfyUI's name for the tree that holds the weights.
MODELS = "models"

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: Device and inode: the same for two names exactly when they are the same file.
FileKey = tuple[int, int]


@dataclass(frozen=True)
class OutputRoot:
    """An output folder that passed every check; `fd` stays open as long as the folder is in use."""

    fd: int
    path: str
    key: FileKey
    mount_id: str

    def free_bytes(self) -> int:
        """Bytes an ordinary user can still write there (what is reserved for root does not count)."""
        return free_bytes(self.fd)


def file_key(info: os.stat_result) -> FileKey:
    """Return what identifies the file behind `info`."""
    return (info.st_dev, info.st_ino)


def mount_id(fd: int) -> str:
    """Return the kernel's id of the mount an open descriptor lies on (proc(5), /proc/PID/fdinfo).

    Unlike the device number it also tells a bind mount of the same file system from the folder around it.
    """
    # Not with pathlib: this is asked for every folder.
    information = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = re.search(rb"^mnt_id:\s*([0-9]+)$", os.read(information, 4096), re.MULTILINE)
    finally:
        os.close(information)
    if found:
        return found[1].decode()
    raise CheckFailed(
        "/proc/self/fdinfo does not say which mount a file is on: mount /proc, then clean again"
    )


@contextmanager
def open_output_root(directory: str) -> Iterator[OutputRoot]:
    """Open `directory` if it is an output folder of ours, and close it afterwards.

    Raises BadInput where it is empty, `/`, a link, not marked, or has to do with checkpoints.
    """
    if not directory.strip():
        raise BadInput("--dir is empty: give the output folder to clean")
    path = Path(directory)
    if ".." in path.parts:
        raise BadInput(f"--dir is {directory!r}: give the path without ..")
    fd = _open_folder(path)
    try:
        yield _checked(fd, path)
    finally:
        os.close(fd)


@contextmanager
def open_other_root(directory: str) -> Iterator[OutputRoot]:
    """Open a folder that is no output folder; whoever asks for it knows what in it may go.

    Raises FileNotFoundError when it is not there, BadInput where it is a link or `/`.
    """
    if not Path(directory).exists():
        raise FileNotFoundError(errno.ENOENT, "no such folder", directory)
    fd = _open_folder(Path(directory))
    try:
        yield _named(fd, Path(directory))
    finally:
        os.close(fd)


def is_marked(folder_fd: int) -> bool:
    """Tell whether an open folder carries our marker."""
    return _is_regular(folder_fd, MARKER)


def _open_folder(path: Path) -> int:
    try:
        # A Path has no trailing slash or dot; with one the kernel follows a link in spite of O_NOFOLLOW.
        return os.open(path, FOLDER_FLAGS)
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist: give the output folder to clean") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOTDIR, errno.ELOOP):
            kind = "a symbolic link" if path.is_symlink() else "not a folder"
            raise BadInput(f"{path} is {kind}: give the output folder itself") from None
        raise BadInput(
            f"{path} cannot be opened ({error}): give an output folder this user can read"
        ) from None


def _named(fd: int, path: Path) -> OutputRoot:
    info = os.fstat(fd)
    real = str(Path(f"/proc/self/fd/{fd}").readlink())
    if file_key(info) == file_key(Path("/").stat()):
        raise BadInput(f"{path} is the root of the file system: give the output folder to clean")
    return OutputRoot(fd=fd, path=real, key=file_key(info), mount_id=mount_id(fd))


def _checked(fd: int, path: Path) -> OutputRoot:
    root = _named(fd, path)
    if MODELS in Path(root.path).parts:
        raise BadInput(
            f"{path} is a models folder or lies in one: weights are never cleaned, give an output folder"
        )
    if not is_marked(fd):
        raise BadInput(
            f"{path} is not marked as an output folder: if everything in it may be deleted by age, "
            f"create the empty file {MARKER} in it"
        )
    if _exists(fd, MODELS):
        raise BadInput(
            f"{path} holds a models folder: weights are never cleaned, give the output folder itself"
        )
    return root


def _is_regular(folder_fd: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _exists(folder_fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def lock(root: OutputRoot) -> bool:
    """Take the lock that keeps two cleaners off one folder; False when another run holds it.

    The lock is on the folder itself: no extra file shows up among the outputs, and it ends with the process.
    """
    try:
        fcntl.flock(root.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
