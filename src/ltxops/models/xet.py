"""One file by the hub's Xet storage, with huggingface_hub's own client, in a process that can be given up.

The client (hf_xet) does not always come back when its storage does not answer, and a thread that waits for it
cannot be ended. So it runs in a child process, which is killed when no byte arrives any more; the caller then
goes on by plain HTTP. What it brought is proven by its sha256 like everything else.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ltxops import __version__
from ltxops.errors import LtxopsError, NetworkError
from ltxops.models.hub import Hub
from ltxops.models.plan import Wanted
from ltxops.models.progress import Display
from ltxops.models.proof import Digest, digest_of
from ltxops.models.store import Store

_POLL_SECONDS = 0.25
#: Not for the child: the token is given to it, and what the operator's shell says of Xet is decided here.
_NOT_PASSED_ON = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_DISABLE_XET", "HF_HUB_OFFLINE")


class XetFailed(NetworkError):
    """Xet did not bring the file; nothing is left of it. The message lacks its subject, which is Xet."""


def fetch_by_xet(
    store: Store,
    hub: Hub,
    files: list[Wanted],
    show: Display,
    place: Callable[[Wanted, Path, Digest, str], None],
    stall_seconds: float,
) -> list[Wanted]:
    """Bring and place files of large storage one after the other; return those left for plain HTTP.

    The first that fails is the last that is tried: what is wrong with Xet here is wrong for all of them.
    """
    left = [item for item in files if item.file.sha256 is None]
    wanted = [item for item in files if item.file.sha256 is not None]
    while wanted:
        item = wanted[0]
        path = store.part(item).with_suffix(".xet")
        show.start(item.dest, item.file.size, 0)
        try:
            bring_by_xet(
                hub.file_url(item.repo, item.revision, item.file.path),
                hub.token,
                path,
                store.state / "xet",
                size=item.file.size,
                arrived=partial(show.advance, item.dest),
                stall_seconds=stall_seconds,
            )
            digest = _proven(path, item)
        except XetFailed as error:
            show.note(f"Xet {error}; going on by plain HTTP")
            break
        place(item, path, digest, f"{hub.url} by Xet")
        show.finish(item.dest, item.file.size)
        del wanted[0]
    return wanted + left


def _proven(path: Path, item: Wanted) -> Digest:
    """Return the digest of what came, which is on disk then. Raises XetFailed, with nothing left."""
    digest = digest_of(path, item.file)
    if problem := digest.mismatch():
        path.unlink()
        raise XetFailed(f"brought a file that {problem}")
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    return digest


def bring_by_xet(
    url: str,
    token: str | None,
    path: Path,
    cache: Path,
    *,
    size: int,
    arrived: Callable[[int], None],
    stall_seconds: float = 60,
) -> None:
    """Bring what the hub has at `url` to `path`, not yet proven; `size`, in bytes, is what was promised.

    `cache` is a folder for the client's own files, removed again. `arrived` is told the bytes as they are
    seen on disk, less than 0 for those thrown away. Raises XetFailed, also when no byte came for
    `stall_seconds`.
    """
    cache.mkdir(parents=True, exist_ok=True)
    process = _start({"url": url, "token": token, "path": str(path), "size": size}, cache)
    seen = 0
    try:
        last_growth = time.monotonic()
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
            on_disk = min(_allocated_bytes(path), size)
            if on_disk > seen:
                arrived(on_disk - seen)
                seen, last_growth = on_disk, time.monotonic()
            if time.monotonic() - last_growth > stall_seconds:
                raise XetFailed(f"brought no byte for {stall_seconds:g} s")
        if process.returncode != 0:
            raise XetFailed(_last_words(process))
    except BaseException:
        process.kill()
        process.wait()
        arrived(-seen)
        path.unlink(missing_ok=True)
        raise
    finally:
        for stream in (process.stdin, process.stderr):
            if stream is not None:
                stream.close()
        shutil.rmtree(cache, ignore_errors=True)
    arrived(size - seen)


def _start(task: dict[str, object], cache: Path) -> "subprocess.Popen[bytes]":
    """Start the child; what it is to do goes through a pipe, because a token must be in no argument."""
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
    environment |= {
        "HF_HOME": str(cache),
        "HF_XET_CACHE": str(cache),
        # Every byte is wanted once: a cache of chunks would cost their size again.
        "HF_XET_CHUNK_CACHE_SIZE_BYTES": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "ltxops.models.xet"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    process.stdin.write(json.dumps(task).encode() + b"\n")
    # It stays open: its end tells the child that this process is gone.
    process.stdin.flush()
    return process


def _last_words(process: "subprocess.Popen[bytes]") -> str:
    assert process.stderr
    lines = process.stderr.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"ended with {process.returncode}"


def _allocated_bytes(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _work() -> None:
    """Be the child: bring the one file that stdin names, and end when stdin does."""
    task: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _bring(task["url"], task["token"], Path(task["path"]), task["size"])
    except Exception as error:  # noqa: BLE001
        sys.stderr.write(f"failed: {str(error) or type(error).__name__}\n".replace("\n", " ") + "\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _bring(url: str, token: str | None, path: Path, size: int) -> None:
    from huggingface_hub.file_download import get_hf_file_metadata, xet_get

    found = get_hf_file_metadata(url, token=token or False)
    if found.xet_file_data is None:
        raise LtxopsError("the hub does not offer it for this file")
    route = urlsplit(found.xet_file_data.refresh_route)
    if (route.scheme, route.netloc) != urlsplit(url)[:2]:
        # The client sends the hub's token there.
        raise LtxopsError(f"the hub sends its clients to another host, {route.netloc}, for an access token")
    headers = {"user-agent": f"ltxops/{__version__}"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    xet_get(incomplete_path=path, xet_file_data=found.xet_file_data, headers=headers, expected_size=size)


if __name__ == "__main__":
    _work()
