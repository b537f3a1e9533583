"""Is there a folder of weights in an output folder? Asked before the first deletion."""

import os
from pathlib import Path

from ltxops.errors import BadInput
from ltxops.upkeep.names import printable
from ltxops.upkeep.output_root import FOLDER_FLAGS, MODELS, OutputRoot

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
#: Here a folder's link count is two and one more for each folder in it, so that a folder without any need not
#: be read (fts(3) of GNU findutils relies on the same file systems).
_COUNTS_FOLDERS = frozenset({"ext2", "ext3", "ext4", "tmpfs", "xfs"})


def refuse_weights(root: OutputRoot) -> None:
    """Raise BadInput when a folder of weights lies below `root`. Reads names only, and as few as it can."""
    counts = _file_system(root.mount_id) in _COUNTS_FOLDERS
    waiting = [""]
    while waiting:
        path = waiting.pop()
        try:
            waiting.extend(_folders_to_read(root, path, counts))
        except OSError:
            continue  # gone or not readable: the walk that follows says so


def _folders_to_read(root: OutputRoot, path: str, counts: bool) -> list[str]:
    found = []
    fd = os.open(path or ".", FOLDER_FLAGS, dir_fd=root.fd)
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    continue
                below = f"{path}/{entry.name}" if path else entry.name
                if entry.name in _CHECKPOINT_FOLDERS and path.rpartition("/")[2] == MODELS:
                    raise BadInput(
                        f"{printable(below)} looks like a folder of weights: they are never cleaned, "
                        "give a folder that holds only outputs"
                    )
                info = entry.stat(follow_symlinks=False)
                if info.st_dev == root.key[0] and not (counts and info.st_nlink == 2):
                    found.append(below)
    finally:
        os.close(fd)
    return found


def _file_system(wanted_mount: str) -> str:
    """Return the type of a mount by its id (proc(5), /proc/PID/mountinfo), empty when it is not listed."""
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        fields = line.split()
        if fields[0] == wanted_mount:
            return fields[fields.index("-") + 1]
    return ""
