"""The Xet path: the real client against a content store on disk, and a hub whose storage hangs."""

import asyncio
import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from tests.integration.models_support import RunningHub

from ltxops.models import manifest
from ltxops.models.hub import Hub
from ltxops.models.limits import Limits
from ltxops.models.lock import LockedFile, LockedModel
from ltxops.models.progress import Reporter
from ltxops.models.report import Report
from ltxops.models.store import Store
from ltxops.models.sync import sync
from ltxops.models.terminal import Lines
from ltxops.models.xet import XetFailed, bring_by_xet

PATH = "deep/open.safetensors"
FILE = f"/owner/open/resolve/main/{PATH}"
SIZE = 12_000_000
#: Puts a file into a content store of hf_xet on this disk, as its tests do, and prints the file's Xet hash.
UPLOAD = """
import sys, time, hf_xet
commit = hf_xet.XetSession().new_upload_commit(
    endpoint=f"local://{sys.argv[1]}", token="x", token_expiry_unix_secs=int(time.time()) + 3600)
handle = commit.start_upload_file(sys.argv[2])
commit.wait_to_finish()
print(handle.result().xet_info.hash)
"""


class XetHub:
    """The embedded hub, which says of one file that it is in Xet storage, and where that is."""

    def __init__(self, hub: RunningHub, store: Path, content: bytes) -> None:
        self.hub, self.store = hub, store
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.refresh_host = ""
        self.hang = False
        source = store.with_name("source.bin")
        source.write_bytes(content)
        environment = {**os.environ, "HF_XET_CACHE": str(store.with_name("cache"))}
        upload = [sys.executable, "-c", UPLOAD, str(store), str(source)]
        done = subprocess.run(upload, env=environment, capture_output=True, text=True, check=True)
        self.xet_hash = done.stdout.strip()
        hub.fault = self.answer

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        if request.path == "/xet-token":
            if self.hang:
                await asyncio.sleep(30)
            headers = {
                "X-Xet-Cas-Url": f"local://{self.store}",
                "X-Xet-Access-Token": "x",
                "X-Xet-Token-Expiration": str(int(time.time()) + 3600),
            }
            return web.Response(headers=headers)
        # What asks for bytes gets them from the hub itself, as by plain HTTP.
        if request.path != FILE or request.method != "HEAD" or not self.xet_hash:
            return None
        headers = {
            "X-Repo-Commit": "0" * 40,
            "X-Linked-Etag": f'"{self.sha256}"',
            "X-Linked-Size": str(SIZE),
            "X-Xet-Hash": self.xet_hash,
            "X-Xet-Refresh-Route": f"{self.refresh_host or self.hub.url}/xet-token",
            "Location": "http://cdn.invalid/file",
        }
        return web.Response(status=302, headers=headers)


@pytest.fixture
def xet(tmp_path: Path) -> Iterator[XetHub]:
    content = os.urandom(SIZE)
    source = tmp_path / "hub/owner/open/deep/open.safetensors"
    source.parent.mkdir(parents=True)
    source.write_bytes(content)
    with RunningHub(tmp_path) as hub:
        yield XetHub(hub, tmp_path / "store", content)


def bring(xet: XetHub, path: Path, stall_seconds: float = 60) -> list[int]:
    counts: list[int] = []
    bring_by_xet(
        xet.hub.url + FILE,
        "a-token",
        path,
        path.with_name("client"),
        size=SIZE,
        arrived=counts.append,
        stall_seconds=stall_seconds,
    )
    return counts


def test_the_file_comes_from_xet_storage_and_leaves_nothing_else(xet: XetHub, tmp_path: Path) -> None:
    path = tmp_path / "part"
    counts = bring(xet, path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == xet.sha256
    assert sum(counts) == SIZE
    assert not (tmp_path / "client").exists()


def test_a_storage_that_hangs_is_given_up(xet: XetHub, tmp_path: Path) -> None:  # R27
    xet.hang = True
    with pytest.raises(XetFailed, match="no byte for 3 s"):
        bring(xet, tmp_path / "part", stall_seconds=3)
    assert not (tmp_path / "part").exists()
    assert (
        b"ltxops.models.xet"
        not in subprocess.run(["pgrep", "-af", str(tmp_path)], capture_output=True).stdout
    )


def test_a_hub_without_xet_says_so(xet: XetHub, tmp_path: Path) -> None:  # R27
    xet.xet_hash = ""
    with pytest.raises(XetFailed, match="does not offer it"):
        bring(xet, tmp_path / "part")


def test_the_token_of_the_hub_goes_to_no_other_host(xet: XetHub, tmp_path: Path) -> None:  # R24
    xet.refresh_host = xet.hub.url.replace("127.0.0.1", "localhost")
    with pytest.raises(XetFailed, match="another host"):
        bring(xet, tmp_path / "part")
    assert ("GET", "/xet-token") not in xet.hub.requests


def sync_with_xet(xet: XetHub, root: Path, stall_seconds: float = 60) -> Report:
    wanted = manifest.load(xet.hub.manifest_path)
    models = [wanted.models["open"]]
    hub = Hub(xet.hub.url, None, attempts=3, backoff_seconds=0.01)
    locked = {"open": LockedModel("owner/open", "main", (PATH,), None, (LockedFile(PATH, SIZE, xet.sha256),))}
    return sync(
        Store(root),
        models,
        locked,
        hub=lambda: hub,
        reserve_bytes=0,
        jobs=2,
        wait_seconds=0,
        show=Reporter().add(Lines()),
        limits=Limits(stall_seconds=stall_seconds, xet=True),
        still_wanted=models,
    )


def test_a_sync_takes_what_xet_brings_and_asks_for_no_byte_otherwise(xet: XetHub, tmp_path: Path) -> None:
    root = tmp_path / "root"
    report = sync_with_xet(xet, root)
    assert (report.fetched, report.bytes_fetched) == (["checkpoints/open.safetensors"], SIZE)
    assert hashlib.sha256((root / report.fetched[0]).read_bytes()).hexdigest() == xet.sha256
    assert ("GET", FILE) not in xet.hub.requests


def test_a_sync_goes_on_by_plain_http_where_xet_hangs_and_says_so(
    xet: XetHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # R27
    xet.hang = True
    root = tmp_path / "root"
    report = sync_with_xet(xet, root, stall_seconds=3)
    assert hashlib.sha256((root / report.fetched[0]).read_bytes()).hexdigest() == xet.sha256
    assert "Xet brought no byte for 3 s; going on by plain HTTP" in capsys.readouterr().err
    assert list((root / ".ltxops/incoming").iterdir()) == []


def test_what_xet_brings_is_proven_too(
    xet: XetHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # R15 R27
    other = xet.store.with_name("other")
    wrong = XetHub(xet.hub, other, os.urandom(SIZE)).xet_hash
    xet.hub.fault = xet.answer
    xet.xet_hash, xet.store = wrong, other
    root = tmp_path / "root"
    report = sync_with_xet(xet, root)
    assert hashlib.sha256((root / report.fetched[0]).read_bytes()).hexdigest() == xet.sha256
    assert "Xet brought a file that has sha256" in capsys.readouterr().err


def test_a_sync_goes_on_by_plain_http_where_the_client_of_xet_is_not_installed(
    xet: XetHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # R27
    (tmp_path / "python").mkdir()
    (tmp_path / "python/hf_xet.py").write_text("raise ImportError('there is no hf_xet')\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "python"))
    root = tmp_path / "root"
    report = sync_with_xet(xet, root)
    assert hashlib.sha256((root / report.fetched[0]).read_bytes()).hexdigest() == xet.sha256
    told = capsys.readouterr().err
    assert re.search(r"Xet failed: .*hf_xet.*; going on by plain HTTP", told)
