"""Weights that need no network: the same content under another name, the Hugging Face cache, a warm store."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.faulty_hub import COMMIT, MIB, FaultyHub, fetch_all, quick
from tests.integration.models_support import clean_environment, command
from tests.integration.mounts import mounted, used_bytes

from ltxops.errors import IntegrityError, NetworkError

CONTENT = os.urandom(9 * MIB)
FILES = {"one.safetensors": CONTENT, "two.safetensors": CONTENT}
ONE, TWO = "checkpoints/one.safetensors", "checkpoints/two.safetensors"


@pytest.fixture
def hub() -> Iterator[FaultyHub]:
    with FaultyHub(FILES) as running:
        yield running


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the Hugging Face cache to an empty folder and return it."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put_in_cache(cache: Path, hub: FaultyHub, content: bytes) -> Path:
    blob = cache / "models--o--r/blobs" / hub.sha256["one.safetensors"]
    blob.parent.mkdir(parents=True)
    blob.write_bytes(content)
    return blob


def test_the_same_content_is_fetched_once_and_lies_on_disk_once(
    hub: FaultyHub, path: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path, "ext2", "64M") as root:
        report = fetch_all(path, root, quick(hub.url))
        assert (report.fetched, report.shared, hub.sent) == ([ONE], [TWO], len(CONTENT))
        assert (root / TWO).read_bytes() == CONTENT
        assert (root / ONE).stat().st_ino == (root / TWO).stat().st_ino
        hub.requests.clear()
        assert fetch_all(path, root, quick(hub.url)).present == 2
        (root / ONE).unlink()
        assert fetch_all(path, root, quick(hub.url)).shared == [ONE]
        assert hub.requests == []


def test_where_blocks_can_be_shared_the_files_stay_their_own(
    hub: FaultyHub, path: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path, "xfs", "400M") as root:
        before = used_bytes(root)
        assert fetch_all(path, root, quick(hub.url)).shared == [TWO]
        assert (root / ONE).stat().st_ino != (root / TWO).stat().st_ino
        assert used_bytes(root) - before < len(CONTENT) * 3 // 2
        assert (root / TWO).read_bytes() == CONTENT
        with (root / TWO).open("r+b") as stream:
            stream.write(b"changed")
        assert (root / ONE).read_bytes() == CONTENT


def test_twins_are_not_shared_when_the_first_is_bad(hub: FaultyHub, path: Path, root: Path) -> None:
    # R15
    hub.files = {name: b"X" + CONTENT[1:] for name in FILES}
    with pytest.raises(IntegrityError):
        fetch_all(path, root, quick(hub.url))
    assert not (root / ONE).exists() and not (root / TWO).exists()


def test_a_bad_hard_link_takes_the_other_name_with_it(hub: FaultyHub, path: Path, root: Path) -> None:
    # R16: damage that leaves size and time as they were shows in neither name's stat.
    fetch_all(path, root, quick(hub.url))
    (root / TWO).unlink()
    os.link(root / ONE, root / TWO)
    stat = (root / ONE).stat()
    with (root / ONE).open("r+b") as stream:
        stream.write(b"damaged")
    os.utime(root / ONE, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    # The second name was never proven for this inode when the ledger forgets it, so it is hashed.
    ledger = root / ".ltxops/ledger.json"
    content = json.loads(ledger.read_text(encoding="utf-8"))
    del content["files"][TWO]
    ledger.write_text(json.dumps(content), encoding="utf-8")
    report = fetch_all(path, root, quick(hub.url))
    assert sorted(report.removed) == [ONE, TWO]
    assert (root / ONE).read_bytes() == (root / TWO).read_bytes() == CONTENT


def test_the_hugging_face_cache_is_used_and_left_as_it_was(
    hub: FaultyHub, path: Path, root: Path, no_cache: Path
) -> None:
    blob = put_in_cache(no_cache, hub, CONTENT)
    before = blob.stat()
    report = fetch_all(path, root, quick(hub.url))
    assert (report.cached, report.shared, hub.requests) == ([ONE], [TWO], [])
    assert (root / ONE).read_bytes() == CONTENT
    after = blob.stat()
    assert (before.st_ino, before.st_mtime_ns, before.st_nlink) == (
        after.st_ino,
        after.st_mtime_ns,
        after.st_nlink,
    )
    blob.write_bytes(b"overwritten by another program")
    assert (root / ONE).read_bytes() == CONTENT


def test_a_cache_on_the_same_disk_costs_no_second_copy(hub: FaultyHub, path: Path, tmp_path: Path) -> None:
    with mounted(tmp_path, "xfs", "400M") as disk, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(disk / "cache"))
        put_in_cache(disk / "cache", hub, CONTENT)
        before = used_bytes(disk)
        # With nothing to spare: a reflink needs no space.
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        report = fetch_all(path, disk / "models", quick(hub.url), reserve_bytes=free)
        assert (report.cached, report.shared, hub.requests) == ([ONE], [TWO], [])
        assert used_bytes(disk) - before < len(CONTENT) // 2


@pytest.mark.parametrize("damage", ["flipped", "short"])
def test_a_bad_file_in_the_cache_is_not_used(
    hub: FaultyHub, path: Path, root: Path, no_cache: Path, damage: str
) -> None:
    # R15
    put_in_cache(no_cache, hub, CONTENT[:-1] + (b"" if damage == "short" else bytes([CONTENT[-1] ^ 1])))
    report = fetch_all(path, root, quick(hub.url))
    assert (report.cached, report.fetched) == ([], [ONE])
    assert (root / ONE).read_bytes() == CONTENT
    assert list((root / ".ltxops/incoming").iterdir()) == []


def test_with_the_network_forbidden_nothing_is_asked(
    hub: FaultyHub, path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NetworkError, match="HF_HUB_OFFLINE is set"):
        fetch_all(path, root, quick(hub.url))
    assert hub.requests == []


def test_a_warm_sync_of_150_gb_reads_nothing_and_loads_no_client(tmp_path: Path) -> None:
    # Sparse files with a proof in the ledger stand for the weights.
    root, home = tmp_path / "models", tmp_path / "home"
    (root / "checkpoints").mkdir(parents=True)
    (root / ".ltxops").mkdir()
    size = 6 * 10**9
    names = [f"file{number}.safetensors" for number in range(25)]
    models, locked, proofs = ["version: 1", "models:"], ["version: 1", "models:"], {}
    for number, name in enumerate(names):
        sha256 = f"{number:064x}"
        models.append(f"  m{number}: {{repo: o/r, file: {name}, dest: checkpoints/}}")
        locked.append(f"  m{number}: {{repo: o/r, revision: {COMMIT}, files: [")
        locked.append(f"    {{path: {name}, size: {size}, sha256: '{sha256}'}}]}}")
        (root / "checkpoints" / name).touch()
        os.truncate(root / "checkpoints" / name, size)
        stat = (root / "checkpoints" / name).stat()
        proofs[f"checkpoints/{name}"] = {
            "size": size,
            "mtime_ns": stat.st_mtime_ns,
            "inode": stat.st_ino,
            "sha256": sha256,
            "git_blob": None,
            "repo": "o/r",
            "revision": COMMIT,
            "source": "found",
        }
    models += ["profiles:", f"  all: {{models: [{', '.join(f'm{n}' for n in range(len(names)))}]}}"]
    (tmp_path / "models.yaml").write_text("\n".join(models) + "\n", encoding="utf-8")
    (tmp_path / "models.lock.yaml").write_text("\n".join(locked) + "\n", encoding="utf-8")
    ledger = {"version": 1, "files": proofs, "resolved": {}}
    (root / ".ltxops/ledger.json").write_text(json.dumps(ledger), encoding="utf-8")

    arguments = ("--manifest", tmp_path / "models.yaml", "--profile", "all", "--root", root)
    code = (
        "import sys\nfrom ltxops.cli.main import main\ncode = main(sys.argv[1:])\n"
        "print(sorted(name for name in ('huggingface_hub', 'httpx2', 'http.client', 'ssl')"
        " if name in sys.modules))\n"
        "print(next(line for line in open('/proc/self/io') if line.startswith('rchar')).split()[1])\n"
        "sys.exit(code)\n"
    )
    environment = clean_environment(home)
    hub = ("--hub", "http://127.0.0.1:9")
    run = [sys.executable, "-c", code, "models", "sync", *map(str, arguments), *hub]
    begin = time.monotonic()
    result = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=60)
    seconds = time.monotonic() - begin
    assert result.returncode == 0, result.stderr
    loaded, read = result.stdout.splitlines()[-2:]
    assert "25 were present" in result.stdout
    assert loaded == "[]"
    assert int(read) < 32 * MIB
    print(f"{seconds:.2f} s")
    verify = subprocess.run(command("verify", *arguments), env=environment, capture_output=True, timeout=60)
    assert verify.returncode == 0
