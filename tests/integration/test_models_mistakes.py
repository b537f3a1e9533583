"""Mistakes of an operator: one sentence that says what is wrong, the right exit code, and nothing lost."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.integration.models_support import (
    LORA,
    RunningHub,
    clean_environment,
    command,
    file_of,
    leftovers,
    ltxops,
    run_sync,
    write_lock,
)
from tests.integration.mounts import fill, mounted
from tests.integration.pace import Pace, large_file

from ltxops.models.store import Store

Result = subprocess.CompletedProcess[str]


def run(hub: RunningHub, verb: str, root: Path, *more: str | Path, **environment: str) -> Result:
    options = ("--manifest", hub.manifest_path, "--profile", "one", "--root", root)
    home = hub.manifest_path.parent / "home"
    return ltxops(verb, *options, *more, home=home, **{"HF_ENDPOINT": hub.url} | environment)


def sentence(result: Result, exit_code: int) -> str:
    """Check that a command failed as it should, with one line, and return the line."""
    assert result.returncode == exit_code, result.stderr
    [line] = result.stderr.splitlines()
    assert line.startswith("ltxops: ")
    return line


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--reserve", "512"), "--reserve is '512': give a whole number with a unit"),
        (("--hf-token-file", "nowhere"), "--hf-token-file nowhere cannot be read"),
        (
            ("--manifest", "nowhere.yaml"),
            "nowhere.yaml: there is no such file; name the manifest with --mani",
        ),
    ],
)
def test_wrong_words_are_named_before_any_network(
    hub: RunningHub, root: Path, more: tuple[str, ...], expected: str
) -> None:
    assert expected in sentence(run(hub, "sync", root, *more), 2)
    assert hub.requests == [] and not root.exists()


def test_a_token_that_cannot_be_one_is_not_sent(hub: RunningHub, root: Path) -> None:
    result = run(hub, "sync", root, HF_TOKEN="hf_secret and more")
    assert "HF_TOKEN must hold one line" in sentence(result, 2)
    assert "hf_secret" not in result.stderr and hub.requests == []


def test_the_folder_of_comfyui_itself_is_not_its_models_folder(hub: RunningHub, root: Path) -> None:
    (root / "models").mkdir(parents=True)
    (root / "main.py").touch()
    assert f"is ComfyUI itself; give its models folder, {root}/models" in sentence(run(hub, "sync", root), 2)
    assert run(hub, "sync", root / "models", "--reserve", "0").returncode == 0


def test_a_name_that_nobody_knows_is_an_unreachable_hub(hub: RunningHub, root: Path) -> None:
    # R23
    result = run(hub, "sync", root, HF_ENDPOINT="http://hub.invalid")
    assert result.returncode == 5
    assert "the hub http://hub.invalid could not be reached in 4 attempts" in result.stderr.splitlines()[-1]


def test_a_disk_that_may_not_be_written_keeps_what_it_has(
    hub: RunningHub, home: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path, "tmpfs", "16m") as disk:
        run_sync(hub, disk / "models", "one")
        shutil.copy(hub.manifest_path, disk)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        told = sentence(run(hub, "sync", disk / "new"), 2)
        assert "cannot be used: Read-only file system" in told
        assert "Read-only file system" in sentence(run(hub, "sync", disk / "models"), 1)
        assert run(hub, "verify", disk / "models").returncode == 0
        assert run(hub, "status", disk / "models").returncode == 0
        options = ("--manifest", disk / "models.yaml", "--hub", hub.url)
        added = ltxops("add", "owner/open:deep/open.safetensors", *options, "--name", "mine", home=home)
        assert "cannot be written to" in sentence(added, 2)


def test_what_belongs_to_somebody_else_is_named(hub: RunningHub, root: Path, home: Path) -> None:
    run_sync(hub, root, "one")
    for path in (root, *root.rglob("*")):
        os.chown(path, 65534, 65534)

    def without_privileges(verb: str, where: Path) -> Result:
        options = ("--manifest", hub.manifest_path, "--profile", "one", "--root", where)
        # Root without its capabilities is a user like any other.
        plain = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command(verb, *options)]
        return subprocess.run(plain, env=clean_environment(home), capture_output=True, text=True, timeout=60)

    assert without_privileges("verify", root).returncode == 0
    assert f"{root}/.ltxops/lock: Permission denied" in sentence(without_privileges("sync", root), 1)
    assert "cannot be used: Permission denied" in sentence(without_privileges("sync", root / "new"), 2)
    (root / "loras").chmod(0o700)
    assert f"{root / LORA}: Permission denied" in sentence(without_privileges("verify", root), 1)
    root.chmod(0o700)
    assert "Permission denied; check its owner" in sentence(without_privileges("sync", root), 1)


def test_a_disk_without_a_byte_left_is_too_small(hub: RunningHub, tmp_path: Path) -> None:
    # R20
    with mounted(tmp_path, "ext2", "4M") as disk:
        fill(disk)
        assert "the disk is full" in sentence(run(hub, "sync", disk / "models"), 4)


def test_a_full_disk_that_needs_nothing_is_fine(hub: RunningHub, tmp_path: Path) -> None:
    with mounted(tmp_path, "ext2", "4M") as disk:
        run_sync(hub, disk / "models", "one")
        (disk / "models/.ltxops/lock").write_bytes(b"")
        fill(disk)
        result = run(hub, "sync", disk / "models")
        assert result.returncode == 0, result.stderr


def test_proofs_that_cannot_be_read_are_told_and_made_again(hub: RunningHub, root: Path) -> None:
    run_sync(hub, root, "one")
    ledger = root / ".ltxops/ledger.json"
    ledger.write_bytes(ledger.read_bytes()[:100])
    for verb in ("status", "verify", "plan"):
        assert "ledger.json cannot be used" in run(hub, verb, root).stderr
    hub.requests.clear()
    again = run(hub, "sync", root, "--json", "--reserve", "0")
    assert json.loads(again.stdout)["adopted"] == [LORA]
    assert not any(method == "GET" for method, _ in hub.requests)


def test_plan_tells_a_program_why_the_disk_is_too_small(hub: RunningHub, root: Path) -> None:
    # R20
    result = run(hub, "plan", root, "--reserve", "900TiB", "--json")
    told = json.loads(result.stdout)
    assert (told["ok"], told["exit_code"], told["error"]) == (False, 4, sentence(result, 4)[8:])


def test_who_interrupts_loses_nothing(tmp_path: Path, root: Path) -> None:
    # R17
    size = 32 * 1024 * 1024
    large_file(tmp_path / "hub", "owner/lora/lora.safetensors", size)
    with RunningHub(tmp_path) as hub:
        write_lock(hub)
        hub.fault = Pace(hub, 8_000_000)
        options = ("--manifest", hub.manifest_path, "--profile", "one", "--root", root, "--hub", hub.url)
        with subprocess.Popen(
            command("sync", *options, "--reserve", "0"),
            env=clean_environment(tmp_path / "home"),
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            deadline = time.monotonic() + 60
            while not Store(root).arrived_bytes(file_of(hub, root, "lora")):
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=60)
        assert process.returncode == 130
        assert told.splitlines()[-1] == "ltxops: interrupted" and "Traceback" not in told
        hub.fault = None
        assert 0 < run_sync(hub, root, "one").bytes_fetched < size
        assert leftovers(root) == []
