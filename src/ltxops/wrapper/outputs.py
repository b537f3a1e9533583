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
from dataclasses import dataclass
from pathlib import Path

from ltxops.errors import CheckFailed
from ltxops.generation.comfyui import ComfyClient, OutputFile, ServiceDown
from ltxops.wrapper.schema import OutputItem

log = logging.getLogger("ltxops.wrapper")

#: Why a file system refuses a second name for a file of another user, or on another device, or at all.
_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}


class OutputsMissing(CheckFailed):
    """ComfyUI lists files that are gone. `nodes` are the ids of the nodes that made them."""

    def __init__(self, files: Sequence[OutputFile], output_directory: Path) -> None:
        first, more = files[0], len(files) - 1
        super().__init__(
            f"the output {Path(first.subfolder) / first.filename}"
            + (f" and {more} more, which ComfyUI lists, are" if more else ", which ComfyUI lists, is")
            + f" neither in {output_directory} nor under its /view; look for what deletes files there, and "
            "send the job again under a new request_id"
        )
        self.nodes = frozenset(file.node_id for file in files)


@dataclass(frozen=True)
class _Found:
    """Where a listed file is: None when nowhere. One that was `fetched` is ours to remove again."""

    file: OutputFile
    source: Path | None
    fetched: bool = False


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


def held_paths(items: Sequence[OutputItem], output_directory: Path) -> list[str]:
    """Return every name that the files have below the output folder."""
    names = {item.local_path for item in items}
    for item in items:
        if item.type == "output":
            names.add(str(output_directory / item.subfolder / item.filename))
    return sorted(names)


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
    client: ComfyClient,
    files: Sequence[OutputFile],
    output_directory: Path,
    request_id: str,
    *,
    subfolder: str = "",
) -> list[OutputItem]:
    """Put the files of a job into its folder and return them as the envelope lists them.

    `subfolder` is where in the output folder this ComfyUI writes. The files are listed as the output folder
    has them, which is how the `/view` of a ComfyUI that writes to the output folder itself finds them.

    What is not in the output folder of this host (a preview in ComfyUI's temp folder) is downloaded. A file
    that cannot get its second name is still delivered, under ComfyUI's. Raises OutputsMissing when some are
    nowhere, and then puts none in place: they are to be made again, under whatever names come then.
    """
    found: list[_Found] = []
    try:
        for file in files:
            found.append(await _find(client, file, output_directory, request_id, subfolder))
        missing = [one.file for one in found if one.source is None]
        if missing:
            raise OutputsMissing(missing, output_directory)
        return [
            OutputItem(
                filename=one.file.filename,
                local_path=str(await asyncio.to_thread(_place, one, output_directory, request_id)),
                type=one.file.type,
                subfolder=_below(subfolder, one.file),
                node_id=one.file.node_id,
                output_type=one.file.output_type,
            )
            for one in found
        ]
    finally:
        for one in found:
            if one.source is not None and one.fetched:
                await asyncio.to_thread(one.source.unlink, missing_ok=True)


def _below(subfolder: str, file: OutputFile) -> str:
    """Return the folder of a file below the output folder; what is elsewhere stays as ComfyUI names it."""
    parts = (subfolder, file.subfolder) if file.type == "output" else (file.subfolder,)
    return "/".join(part for part in parts if part)


async def _find(
    client: ComfyClient, file: OutputFile, output_directory: Path, request_id: str, subfolder: str
) -> _Found:
    if file.filename != Path(file.filename).name:
        raise CheckFailed(f"ComfyUI reports an output named {file.filename!r}, which is no file name")
    source = await asyncio.to_thread(source_in, output_directory / subfolder, file.subfolder, file.filename)
    if file.type == "output" and source is not None:
        return _Found(file, source)
    try:
        folder = await asyncio.to_thread(job_directory, output_directory, request_id)
        part = folder / f".{uuid.uuid4().hex}.download"
        return _Found(file, await _download(client, file, part), fetched=True)
    except OSError as error:
        raise _not_put(file, output_directory, error) from error


async def _download(client: ComfyClient, file: OutputFile, part: Path) -> Path | None:
    """Return `part` with the file in it, or None when ComfyUI answers and not with the file."""
    try:
        await client.download(file, part)
    except ServiceDown:
        raise
    except CheckFailed as error:
        log.warning("the output %s is gone: %s", file.filename, error)
        return None
    return part


def _place(found: _Found, output_directory: Path, request_id: str) -> Path:
    source = found.source
    assert source is not None
    try:
        return give_second_name(source, job_directory(output_directory, request_id), found.file.filename)
    except OSError as error:
        if found.fetched:
            raise _not_put(found.file, output_directory, error) from error
        log.warning("%s stays where it is: no name for it in the folder of its job (%s)", source, error)
        return source


def _not_put(file: OutputFile, output_directory: Path, error: OSError) -> CheckFailed:
    return CheckFailed(
        f"the output {file.filename} cannot be put into {output_directory} ({error.strerror}); look at its "
        "owner and its free space"
    )
