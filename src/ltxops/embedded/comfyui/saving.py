"""Where results go: ComfyUI's numbered names, and a file that is never seen half written."""

import os
from collections.abc import Callable
from pathlib import Path

#: A result as the API lists it: filename, subfolder, type.
Listed = dict[str, str]


def save(
    root: Path, kind: str, prefix: str, suffix: str, write: Callable[[Path], None], counter: int = 0
) -> Listed:
    """Let `write` make a file and give it the next free name of `prefix`: `folder/name` →
    folder/name_00001_.mp4.

    `counter` is the lowest number to use. Returns how the API lists the file. Raises ValueError when the
    prefix leads out of `root`.
    """
    target = Path(os.path.normpath(root / prefix))
    folder, name = target.parent, target.name
    if not folder.is_relative_to(root) or "\0" in prefix:
        raise ValueError(f"Saving image outside the output folder is not allowed: {prefix!r} leaves {root}")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{name[:100]}.{os.getpid()}.part"
    try:
        write(part)
        final = _publish(part, name, suffix, max(counter, next_number(folder, name)))
    finally:
        part.unlink(missing_ok=True)
    subfolder = folder.relative_to(root).as_posix()
    return {"filename": final, "subfolder": "" if subfolder == "." else subfolder, "type": kind}


def next_number(folder: Path, name: str) -> int:
    """Return one more than the highest number of a file `name_<number>_…` in `folder`."""
    highest = 0
    for entry in os.scandir(folder):
        number = entry.name[len(name) + 1 :].split("_")[0]
        if entry.name.startswith(f"{name}_") and number.isascii() and number.isdigit():
            highest = max(highest, int(number))
    return highest + 1


def _publish(part: Path, name: str, suffix: str, number: int) -> str:
    """Give a finished file its name, the next one where another engine took the number first."""
    while True:
        final = part.with_name(f"{name}_{number:05}_{suffix}")
        try:
            os.link(part, final)
        except FileExistsError:
            number += 1
        except OSError:
            # Some file systems have no hard links.
            part.rename(final)
            return final.name
        else:
            return final.name
