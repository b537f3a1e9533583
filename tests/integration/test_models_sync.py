"""Sync from a real hub over loopback: what lands on disk, what is asked, and what a fault does."""

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from aiohttp import web
from tests.integration.models_support import (
    CHECKPOINT,
    LORA,
    RunningHub,
    clean_environment,
    command,
    file_of,
    leave_part,
    leftovers,
    run_sync,
    write_lock,
)

from ltxops.embedded.hub import read_repositories
from ltxops.errors import AccessDenied, BadInput, Busy, DiskFull, IntegrityError, NetworkError
from ltxops.models import manifest
from ltxops.models.hub import Hub
from ltxops.models.lock import lock_path, save
from ltxops.models.store import Store
from ltxops.models.sync import resolve


def kept_bytes(root: Path, hub: RunningHub) -> int:
    """Return how many bytes of the LoRA a rerun would not ask for again."""
    return Store(root).arrived_bytes(file_of(hub, root, "lora"))


def blocks(root: Path) -> int:
    """Return how many bytes of disk the parts take."""
    return sum(path.stat().st_blocks * 512 for path in root.rglob("*.part"))


def placed(root: Path) -> set[str]:
    files = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return {name for name in files if not name.startswith(".ltxops/")}


def test_everything_lands_under_its_name_with_the_hubs_bytes(hub: RunningHub, root: Path) -> None:
    report = run_sync(hub, root)
    assert (root / LORA).read_bytes() == hub.file("owner/lora/lora.safetensors").read_bytes()
    assert (root / CHECKPOINT).read_bytes() == hub.file("owner/open/deep/open.safetensors").read_bytes()
    folder = {path.name for path in (root / "text_encoders/folder").iterdir()}
    assert "model-00005-of-00005.safetensors" in folder and "tokenizer_config.json" in folder
    assert "README.md" not in folder
    assert sorted(report.fetched) == sorted(placed(root))
    assert report.bytes_fetched == sum((root / name).stat().st_size for name in placed(root))
    assert leftovers(root) == []


def test_a_second_run_asks_the_hub_nothing_though_nothing_is_locked(hub: RunningHub, root: Path) -> None:
    first = run_sync(hub, root)
    hub.requests.clear()
    again = run_sync(hub, root)
    assert hub.requests == []
    assert (again.present, again.fetched, again.adopted) == (len(first.fetched), [], [])


def test_a_file_that_is_already_there_is_adopted_without_a_download(hub: RunningHub, root: Path) -> None:
    write_lock(hub)
    (root / "loras").mkdir(parents=True)
    shutil.copy(hub.file("owner/lora/lora.safetensors"), root / LORA)
    hub.requests.clear()
    assert run_sync(hub, root, "one").adopted == [LORA]
    assert hub.requests == []
    assert run_sync(hub, root, "one").present == 1


def test_a_flipped_byte_on_the_hub_never_gets_the_final_name(hub: RunningHub, root: Path) -> None:
    # R15
    source = hub.file("owner/lora/lora.safetensors")
    content = bytearray(source.read_bytes())
    content[-1] ^= 1
    source.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"loras/renamed\.safetensors: .* sha256 .*thrown away"):
        run_sync(hub, root)
    assert not (root / LORA).exists()
    assert leftovers(root) == []
    # The good files of the same run are there.
    assert (root / CHECKPOINT).exists()


def test_a_flipped_byte_in_a_small_file_is_found_by_its_git_hash(hub: RunningHub, root: Path) -> None:
    # R15: the hub tells no sha256 of files that are not in large file storage.
    source = hub.file("owner/folder/config.json")
    source.write_bytes(source.read_bytes().replace(b"note", b"nota"))
    with pytest.raises(IntegrityError, match="git blob id"):
        run_sync(hub, root)
    assert not (root / "text_encoders/folder/config.json").exists()


@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.parametrize("damage", ["truncated", "corrupt"])
def test_a_bad_file_already_there_is_replaced(hub: RunningHub, root: Path, damage: str, locked: bool) -> None:
    # R16
    if locked:
        write_lock(hub)
    good = hub.file("owner/lora/lora.safetensors").read_bytes()
    (root / "loras").mkdir(parents=True)
    (root / LORA).write_bytes(good[:-9] if damage == "truncated" else good[:-1] + bytes([good[-1] ^ 1]))
    report = run_sync(hub, root, "one")
    assert (report.removed, report.fetched) == ([LORA], [LORA])
    assert (root / LORA).read_bytes() == good


@pytest.mark.parametrize("same_size", [True, False])
def test_a_bad_file_does_not_stay_without_its_replacement(
    hub: RunningHub, root: Path, same_size: bool
) -> None:
    # R16
    write_lock(hub)
    (root / "loras").mkdir(parents=True)
    size = hub.file("owner/lora/lora.safetensors").stat().st_size
    (root / LORA).write_bytes(b"X" * (size if same_size else size // 2))

    async def down(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503)

    hub.fault = down
    with pytest.raises(NetworkError, match="answered 503"):
        run_sync(hub, root, "one")
    assert not (root / LORA).exists()


def test_a_touched_file_is_proven_again_and_a_changed_one_fetched_again(hub: RunningHub, root: Path) -> None:
    # R16
    run_sync(hub, root)
    hub.requests.clear()
    os.utime(root / LORA, ns=(0, 0))
    assert run_sync(hub, root).adopted == [LORA]
    assert hub.requests == []
    good = (root / LORA).read_bytes()
    (root / LORA).write_bytes(b"X" + good[1:])
    assert run_sync(hub, root).fetched == [LORA]
    assert (root / LORA).read_bytes() == good


def test_a_new_version_replaces_the_old_one_only_when_it_is_proven(hub: RunningHub, root: Path) -> None:
    write_lock(hub)
    run_sync(hub, root, "one")
    old = (root / LORA).read_bytes()
    text = lock_path(hub.manifest_path).read_text(encoding="utf-8")
    old_hash = hashlib.sha256(old).hexdigest()
    lock_path(hub.manifest_path).write_text(text.replace(old_hash, "ab" * 32), encoding="utf-8")
    with pytest.raises(IntegrityError):
        run_sync(hub, root, "one")
    assert (root / LORA).read_bytes() == old


def test_a_new_version_takes_the_place_of_the_old_one_at_once(hub: RunningHub, root: Path) -> None:
    write_lock(hub)
    run_sync(hub, root, "one")
    old = (root / LORA).read_bytes()
    hub.file("owner/lora/lora.safetensors").write_bytes(os.urandom(2_000_000))
    hub.repositories.update(read_repositories(manifest.load(hub.manifest_path), hub.folder))
    write_lock(hub)

    async def still_there(request: web.Request) -> web.StreamResponse | None:
        assert (root / LORA).read_bytes() == old
        return None

    hub.fault = still_there
    report = run_sync(hub, root, "one")
    assert (report.fetched, report.removed) == ([LORA], [])
    assert (root / LORA).stat().st_size == 2_000_000


def test_another_run_on_the_same_root_is_refused(hub: RunningHub, root: Path) -> None:
    # R22
    first = Store(root)
    first.prepare()
    with first.exclusive(), pytest.raises(Busy, match=rf"process {os.getpid()}.*--wait"):
        run_sync(hub, root)
    assert run_sync(hub, root).fetched


def test_too_little_disk_is_refused_before_the_first_byte(hub: RunningHub, root: Path) -> None:
    # R20
    write_lock(hub)
    hub.requests.clear()
    free = shutil.disk_usage(root.parent).free
    with pytest.raises(DiskFull, match=r"not enough disk at .* short"):
        run_sync(hub, root, reserve_bytes=free + 2**40)
    assert hub.requests == []
    assert placed(root) == set()


def test_a_gate_is_met_before_the_first_byte_and_named(tmp_path: Path, root: Path) -> None:
    # R28
    with RunningHub(tmp_path, token="hf_right") as hub:
        with pytest.raises(AccessDenied) as caught:
            run_sync(hub, root, "gated")
        assert "owner/gated is gated and no token was given" in str(caught.value)
        assert f"{hub.url}/owner/gated" in str(caught.value)
        with pytest.raises(AccessDenied, match="refused the token given") as refused:
            run_sync(hub, root, "gated", token="hf_wrong")
        assert "hf_wrong" not in str(refused.value)
        assert placed(root) == set()
        assert run_sync(hub, root, "gated", token="hf_right").fetched == ["loras/gated.safetensors"]


def test_a_token_without_access_is_told_apart(hub: RunningHub, root: Path) -> None:
    # R28
    with pytest.raises(AccessDenied, match="owner/gated is gated and the token given has no access"):
        run_sync(hub, root, "gated", token="hf_of_somebody_else")


def test_the_gate_of_a_locked_repository_stops_before_other_downloads(tmp_path: Path, root: Path) -> None:
    # R28
    path = tmp_path / "models.yaml"
    with RunningHub(tmp_path, token="hf_right") as hub:
        wanted = manifest.load(path)
        found = resolve(wanted.models.values(), Hub(hub.url, "hf_right"), 1)
        save(lock_path(path), found, wanted)
        path.write_text(
            path.read_text().replace("models: [gated]", "models: [lora, gated]"), encoding="utf-8"
        )
        with pytest.raises(AccessDenied):
            run_sync(hub, root, "gated")
        assert placed(root) == set()


def test_the_token_is_not_sent_to_another_host(tmp_path: Path, root: Path) -> None:
    # R24
    (tmp_path / "cdn").mkdir()
    with (
        RunningHub(tmp_path / "cdn") as cdn,
        RunningHub(tmp_path, token="hf_right", cdn_url=cdn.url) as hub,
    ):
        run_sync(hub, root, "gated", token="hf_right")
        assert any(headers.get("authorization") == "Bearer hf_right" for headers in hub.headers)
        assert cdn.requests
        assert not any("authorization" in headers for headers in cdn.headers)


@pytest.mark.parametrize("size", ["same", "shorter", "longer"])
def test_a_page_in_place_of_the_file_is_rejected(hub: RunningHub, root: Path, size: str) -> None:
    # R19
    write_lock(hub)
    promised = hub.file("owner/lora/lora.safetensors").stat().st_size
    length = {"same": promised, "shorter": promised - 1, "longer": 30_000_000}[size]
    largest = 0

    async def page(request: web.Request) -> web.StreamResponse | None:
        nonlocal largest
        if not request.path.startswith("/cdn/"):
            return None
        response = web.StreamResponse(headers={"Content-Type": "text/html", "Content-Length": str(length)})
        await response.prepare(request)
        for start in range(0, length, 1_000_000):
            await response.write(b"<" * min(1_000_000, length - start))
            largest = max(largest, blocks(root))
        return response

    hub.fault = page
    with pytest.raises(IntegrityError):
        run_sync(hub, root, "one")
    assert largest <= promised + 4096
    assert placed(root) == set()
    assert leftovers(root) == []


def test_an_unreachable_hub_is_named_after_bounded_retries(hub: RunningHub, root: Path) -> None:
    # R23
    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    hub.fault = hang_up
    with pytest.raises(NetworkError, match=rf"the hub {hub.url} could not be reached in 3 attempts"):
        run_sync(hub, root, "one")
    assert len(hub.requests) == 3


def test_retry_after_is_honoured_and_a_passing_fault_survived(hub: RunningHub, root: Path) -> None:
    # R23
    times: list[float] = []

    async def busy_twice(request: web.Request) -> web.StreamResponse | None:
        times.append(time.monotonic())
        return web.Response(status=503, headers={"Retry-After": "1"}) if len(times) == 1 else None

    hub.fault = busy_twice
    assert run_sync(hub, root, "one").fetched == [LORA]
    assert times[1] - times[0] >= 1


def test_a_name_that_the_hub_does_not_have_is_named(hub: RunningHub, root: Path) -> None:
    hub.file("owner/lora/lora.safetensors").unlink()
    hub.repositories["owner/lora"].files.pop("lora.safetensors")
    with pytest.raises(BadInput, match=r"owner/lora/resolve/main/lora\.safetensors is not on the hub"):
        run_sync(hub, root, "one")


def test_a_folder_that_is_linked_out_of_the_root_is_refused(hub: RunningHub, root: Path) -> None:
    # R25
    outside = root.parent / "outside"
    outside.mkdir()
    root.mkdir()
    (root / "loras").symlink_to(outside)
    with pytest.raises(BadInput, match="symbolic link that leaves"):
        run_sync(hub, root)
    (root / "loras").unlink()
    (root / "loras").mkdir()
    (root / LORA).symlink_to(outside / "x")
    with pytest.raises(BadInput, match="is a symbolic link"):
        run_sync(hub, root)
    assert hub.requests == []
    assert list(outside.iterdir()) == []


def test_a_linked_root_is_fine(hub: RunningHub, root: Path) -> None:
    real = root.parent / "volume"
    real.mkdir()
    root.symlink_to(real)
    assert run_sync(hub, root, "one").fetched == [LORA]
    assert (real / LORA).exists()


def big_hub(tmp_path: Path) -> RunningHub:
    """Return a hub whose LoRA is large enough to be cut in the middle."""
    path = tmp_path / "hub/owner/lora/lora.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(os.urandom(1024) * 24 * 1024)
    return RunningHub(tmp_path)


def test_killed_in_the_middle_the_rerun_finishes_with_the_rest(tmp_path: Path, root: Path) -> None:
    # R17, R26
    with big_hub(tmp_path) as hub:
        write_lock(hub)
        size = hub.file("owner/lora/lora.safetensors").stat().st_size
        content = hub.file("owner/lora/lora.safetensors").read_bytes()

        async def stall(request: web.Request) -> web.StreamResponse | None:
            if not request.path.startswith("/cdn/") or request.method != "GET":
                return None
            response = web.StreamResponse(headers={"Content-Length": str(size)})
            await response.prepare(request)
            await response.write(content[: size // 2])
            await asyncio.sleep(60)
            return response

        hub.fault = stall
        arguments = (
            "sync",
            "--manifest",
            hub.manifest_path,
            "--profile",
            "one",
            "--root",
            root,
            "--hub",
            hub.url,
        )
        environment = clean_environment(tmp_path / "home")
        process = subprocess.Popen(command(*arguments), env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while not kept_bytes(root, hub):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert placed(root) == set()
        (root / ".ltxops/incoming/orphan.part").write_bytes(b"of a run long ago")

        hub.fault = None
        kept = kept_bytes(root, hub)
        report = run_sync(hub, root, "one")
        assert (root / LORA).read_bytes() == content
        assert report.bytes_fetched == size - kept
        assert leftovers(root) == []


@pytest.mark.parametrize("fault", ["ignored range", "bad beginning"])
def test_a_beginning_that_cannot_be_continued_is_fetched_again(
    tmp_path: Path, root: Path, fault: str
) -> None:
    # R18
    with big_hub(tmp_path) as hub:
        write_lock(hub)
        content = hub.file("owner/lora/lora.safetensors").read_bytes()

        async def whole(request: web.Request) -> web.StreamResponse | None:
            return web.Response(body=content) if request.path.startswith("/cdn/") else None

        beginning = content[:5_000_000]
        if fault == "ignored range":
            hub.fault = whole
        else:
            beginning = b"X" + beginning[1:]
        leave_part(root, file_of(hub, root, "lora"), beginning)
        assert run_sync(hub, root, "one").fetched == [LORA]
        assert (root / LORA).read_bytes() == content
        assert leftovers(root) == []
