"""A job's files in a folder of their own: `<output>/<request id>/<filename>`, beside where ComfyUI put them.

A second name (hard link), not a move: ComfyUI's `/view`, cache and file counters go on working, and no bytes
are copied. Nothing that already has a name there is ever replaced.
"""

import asyncio
import contextlib
import errno
import filecmp
import logging
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from ltxops.errors import CheckFailed
from ltxops.generation.comfyui import ComfyClient, OutputFile
from ltxops.wrapper.schema import OutputItem

log = logging.getLogger("ltxops.wrapper")

#: Why a file system refuses a second name for a file of another user, or on another device, or at all.
_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}


def source_in(output_directory: Path, subfolder: str, filename: str) -> Path | None:
    """Return where ComfyUI put a file of its output folder, or None when it is not there.

    Raises CheckFailed when the reported place is outside that folder.
    """
    root = output_directory.resolve()
    source = (root / subfolder / filename).resolve()
    if root not in source.parents:
        raise CheckFailed(f"ComfyUI reports the output {subfolder}/{filename}, which is outside {root}")
    return source if source.is_file() else None


def job_directory(output_directory: Path, request_id: str) -> Path:
    """Return the folder of a job, made when missing. Raises CheckFailed when something else has its name."""
    folder = output_directory / request_id
    with contextlib.suppress(FileExistsError):
        folder.mkdir(exist_ok=True)
    if folder.is_symlink() or not folder.is_dir():
        raise CheckFailed(f"{folder} is in the way of this job's folder; use another request_id")
    return folder


def give_second_name(source: Path, folder: Path, name: str) -> Path:
    """Put `source` into `folder` as `name` and return the new path.

    A name that belongs to another file is left alone; this one then gets a number. Raises OSError.
    """
    for attempt in range(1, 1000):
        target = folder / name
        if attempt > 1:
            target = target.with_stem(f"{target.stem}-{attempt}")
        try:
            _link_or_copy(source, target)
        except FileExistsError:
            if not _same_file(source, target):
                continue
        return target
    raise OSError(errno.EEXIST, "a thousand files of this name", str(folder / name))


def _same_file(source: Path, target: Path) -> bool:
    """Also true of an earlier copy: a job that is answered twice must not gather copies."""
    if target.is_symlink() or not target.is_file():
        return False
    return target.samefile(source) or filecmp.cmp(source, target, shallow=False)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
        return
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
    # The name is reserved first, so that the finished copy can only replace our own empty file.
    target.touch(exist_ok=False)
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.copy2(source, part)
        part.replace(target)
    except BaseException:
        target.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
        raise


async def collect_outputs(
    client: ComfyClient, files: Sequence[OutputFile], output_directory: Path, request_id: str
) -> list[OutputItem]:
    """Put the files of a job into its folder and return them as the envelope lists them.

    What is not in the output folder of this host (a preview in ComfyUI's temp folder) is downloaded. A file
    that cannot get its second name is still delivered, under ComfyUI's. Raises CheckFailed when one is
    nowhere.
    """
    items = []
    for file in files:
        if file.filename != Path(file.filename).name:
            raise CheckFailed(f"ComfyUI reports an output named {file.filename!r}, which is no file name")
        source = await asyncio.to_thread(source_in, output_directory, file.subfolder, file.filename)
        if file.type != "output" or source is None:
            place = await _download(client, file, output_directory, request_id)
        else:
            place = await asyncio.to_thread(_place, source, output_directory, request_id)
        items.append(
            OutputItem(
                filename=file.filename,
                local_path=str(place),
                type=file.type,
                subfolder=file.subfolder,
                node_id=file.node_id,
                output_type=file.output_type,
            )
        )
    return items


def _place(source: Path, output_directory: Path, request_id: str) -> Path:
    try:
        return give_second_name(source, job_directory(output_directory, request_id), source.name)
    except OSError as error:
        log.warning("%s stays where it is: no name for it in the folder of its job (%s)", source, error)
        return source


async def _download(client: ComfyClient, file: OutputFile, output_directory: Path, request_id: str) -> Path:
    try:
        folder = await asyncio.to_thread(job_directory, output_directory, request_id)
        part = folder / f".{uuid.uuid4().hex}.download"
        try:
            await client.download(file, part)
            return await asyncio.to_thread(give_second_name, part, folder, file.filename)
        finally:
            await asyncio.to_thread(part.unlink, missing_ok=True)
    except OSError as error:
        raise CheckFailed(
            f"the output {file.filename} cannot be put into {output_directory} ({error.strerror}); look at "
            "its owner and its free space"
        ) from error
