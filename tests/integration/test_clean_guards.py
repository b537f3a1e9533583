"""What the cleaners never touch, on real files."""

import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support import wait_for

from ltxops.errors import BadInput
from ltxops.upkeep.cleaners import clean_ttl
from ltxops.upkeep.in_use import OpenFiles
from ltxops.upkeep.needed import Needed
from ltxops.upkeep.oldfile import OldFile
from ltxops.upkeep.output_root import lock, open_output_root
from ltxops.upkeep.removal import Remover
from ltxops.upkeep.report import Report
from ltxops.upkeep.signals import lease_breaks_ignored
from ltxops.upkeep.walk import BATCH, Age, Folder, walk

LTXOPS = [sys.executable, "-m", "ltxops.cli.main"]
NEEDS_ROOT = pytest.mark.skipif(
    os.geteuid() != 0, reason="SKIPPED, NOT PROVEN: needs root for mounts and users"
)
#: As an age, so that a test need not wait: everything that exists is older.
ANY_AGE = 0


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / ".ltxops-output").touch()
    return folder


def make(path: Path, size: int = 5000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"v" * size)
    return path


@contextmanager
def process_holding(
    path: Path, mode: str = "<", uid: int | None = None, locked: bool = False, prefix: Sequence[str] = ()
) -> Iterator[None]:
    """Run another process that keeps `path` open, as a shell redirection `mode`."""
    # The file is opened here, where the way to it is certain, and inherited by the child alone.
    descriptor = os.open(path, {"<": os.O_RDONLY, "<>": os.O_RDWR, ">>": os.O_WRONLY | os.O_APPEND}[mode])
    if locked:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # belongs to the open file, so the child has it from here on
    try:
        command = [*prefix, "/bin/sh", "-c", "echo 1 >&2; exec sleep 60"]
        child = subprocess.Popen(command, stdin=descriptor, stderr=subprocess.PIPE, cwd="/", user=uid)
    finally:
        os.close(descriptor)
    try:
        assert child.stderr is not None
        assert child.stderr.readline() == b"1\n"
        yield
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("mode", ["<", "<>", ">>"])
def test_a_file_open_in_another_process_is_kept(output: Path, mode: str) -> None:  # R37
    held, free = make(output / "held.mp4"), make(output / "free.mp4")
    with process_holding(held, mode):
        report = clean_ttl(str(output), ANY_AGE)
        assert (held.exists(), free.exists()) == (True, False)
        assert (report.kept_open, report.deleted_files, report.failure) == (1, 1, None)
    assert clean_ttl(str(output), ANY_AGE).deleted_files == 1


def test_a_flocked_file_is_kept(output: Path) -> None:  # R37
    held = make(output / "job" / "held.mp4")
    with held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert clean_ttl(str(output), ANY_AGE).kept_open == 1
    assert held.exists()


class Found:
    """Remembers what a walk shows."""

    def __init__(self) -> None:
        self.files: list[OldFile] = []
        self.folders: list[Folder] = []

    def file(self, folder: Folder, fd: int, name: str, info: os.stat_result) -> None:
        file = OldFile.of(info)
        file.names.append((folder, name))
        self.files.append(file)

    def unseen(self, folder: Folder, fd: int, name: str) -> bool:
        return False

    def link(self, folder: Folder, fd: int, name: str) -> None:
        raise AssertionError(name)

    def young(self) -> None:
        raise AssertionError("nothing is young here")

    def leave(self, folder: Folder) -> None:
        self.folders.append(folder)

    def problem(self, text: str) -> None:
        raise AssertionError(text)


@contextmanager
def looked_at(output: Path, report: Report) -> Iterator[tuple[Found, Remover]]:
    """Walk through `output`; the block is what happens before the deletion."""
    age = Age(ANY_AGE)
    with open_output_root(str(output)) as root, lease_breaks_ignored():
        found = Found()
        walk(root, age, found)
        open_files = OpenFiles()
        open_files.refresh()
        yield found, Remover(root, age, open_files, Needed(), report, lambda: False)


def test_a_file_opened_after_the_scan_is_kept(output: Path) -> None:  # R37
    held = make(output / "held.mp4")
    report = Report("ttl", str(output), dry_run=False)
    with looked_at(output, report) as (found, remover), held.open("rb"):
        for file in found.files:
            remover.remove(file)
    assert held.exists()
    assert report.kept_open == 1


def test_a_newcomer_waits_a_moment_and_ends_nobody(output: Path) -> None:  # R37
    # Whoever opens a file that is leased makes the kernel signal the holder, which must survive that.
    make(output / "video.mp4")
    with looked_at(output, Report("ttl", str(output), dry_run=False)):
        fd = os.open(output / "video.mp4", os.O_RDONLY)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        reader = subprocess.Popen(["/bin/cat", output / "video.mp4"], stdout=subprocess.DEVNULL)
        # The lease that is left to the holder changes when somebody waits for the file.
        wait_for(lambda: fcntl.fcntl(fd, fcntl.F_GETLEASE) != fcntl.F_WRLCK)
        assert reader.poll() is None
        os.close(fd)
        assert reader.wait(60) == 0


@NEEDS_ROOT
def test_root_in_a_container_still_sees_what_others_have_open(output: Path) -> None:  # R37
    # Without these two capabilities root may neither look into other users' processes nor lease their files.
    without = ["setpriv", "--bounding-set", "-lease,-sys_ptrace"]
    held, free = make(output / "held.mp4"), make(output / "free.mp4")
    for path in (held, free):
        os.chown(path, 12345, 12345)
    with process_holding(held, uid=12345):
        time.sleep(1.1)
        command = [*without, *LTXOPS, "clean", "ttl", "--dir", str(output), "--older-than", "1s", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (held.exists(), free.exists()) == (True, False)
    assert json.loads(done.stdout)["kept_open"] == 1


@NEEDS_ROOT
def test_what_cannot_be_known_is_kept(output: Path) -> None:  # R37
    # Without setuid too, root cannot act as the files' owner: only /proc, in part, and locks are left to ask.
    without = ["setpriv", "--bounding-set", "-lease,-sys_ptrace,-setuid"]
    visible, locked, unknown = (make(output / f"{name}.mp4") for name in ("visible", "locked", "unknown"))
    for path in (visible, locked, unknown):
        os.chown(path, 12345, 12345)
    with process_holding(visible, prefix=without), process_holding(locked, uid=12345, locked=True):
        time.sleep(1.1)
        command = [*without, *LTXOPS, "clean", "ttl", "--dir", str(output), "--older-than", "1s", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert all(path.exists() for path in (visible, locked, unknown))
    assert json.loads(done.stdout)["kept_open"] == 2
    assert "unknown.mp4 was kept because this user cannot tell whether it is open" in done.stderr


def test_a_folder_that_a_process_stands_in_is_kept(output: Path) -> None:  # R37
    (output / "here").mkdir()
    (output / "empty").mkdir()
    child = subprocess.Popen(["/bin/sleep", "60"], cwd=output / "here")
    try:
        clean_ttl(str(output), ANY_AGE)
    finally:
        child.kill()
        child.wait()
    assert (output / "here").exists()
    assert not (output / "empty").exists()


def test_a_link_to_the_outside_is_not_followed_and_is_an_error(output: Path, tmp_path: Path) -> None:  # R38
    outside = make(tmp_path / "outside" / "video.mp4")
    (output / "folder").symlink_to(outside.parent)
    (output / "file").symlink_to(outside)
    inside = make(output / "inside.mp4")
    report = clean_ttl(str(output), ANY_AGE)
    assert outside.exists()
    assert not inside.exists()
    assert report.failure is not None
    assert report.failure.exit_code == 1
    assert "leads out of the output folder" in str(report.failure)


def test_a_symlinked_root_is_refused(output: Path, tmp_path: Path) -> None:  # R38
    video = make(output / "video.mp4")
    link = tmp_path / "link"
    link.symlink_to(output)
    for name in (f"{link}", f"{link}/", f"{link}/.", f"{link}/x/.."):
        with pytest.raises(BadInput):
            clean_ttl(name, ANY_AGE)
    assert video.exists()


def test_a_folder_swapped_between_look_and_deletion_is_left_alone(
    output: Path, tmp_path: Path
) -> None:  # R38
    make(output / "sub" / "video.mp4")
    outside = make(tmp_path / "outside" / "video.mp4")
    for swap in ("link", "folder"):
        report = Report("ttl", str(output), dry_run=False)
        with looked_at(output, report) as (found, remover):
            (output / "sub").rename(tmp_path / "aside")
            if swap == "link":
                (output / "sub").symlink_to(outside.parent)
            else:
                outside.parent.rename(output / "sub")
            for file in found.files:
                remover.remove(file)
            for folder in found.folders:
                folder.remaining = 0
                remover.remove_if_empty(folder)
        assert (output / "sub" / "video.mp4").exists()
        assert "was replaced during the run" in report.problems[0]
        if swap == "link":
            (output / "sub").unlink()
            (tmp_path / "aside").rename(output / "sub")


class _MovesAway(Found):
    """Moves the folder that is being walked through out of the tree, at its first file."""

    def __init__(self, folder: Path, aside: Path) -> None:
        super().__init__()
        self._folder, self._aside = folder, aside
        self.problems: list[str] = []

    def file(self, folder: Folder, fd: int, name: str, info: os.stat_result) -> None:
        if not self.files:
            self._folder.rename(self._aside)
        super().file(folder, fd, name, info)

    def problem(self, text: str) -> None:
        self.problems.append(text)


def test_a_folder_moved_out_in_mid_walk_is_not_followed_there(output: Path, tmp_path: Path) -> None:  # R38
    for number in range(2000):
        make(output / "sub" / f"{number}.png", 0)
    visitor = _MovesAway(output / "sub", tmp_path / "aside")
    with open_output_root(str(output)) as root:
        walk(root, Age(ANY_AGE), visitor)
    assert 0 < len(visitor.files) <= BATCH


def _swap(sub: str, aside: str, outside: str) -> None:
    while True:
        Path(sub).rename(aside)
        Path(sub).symlink_to(outside)
        Path(sub).unlink()
        Path(aside).rename(sub)


def test_a_folder_that_is_swapped_all_the_time_leads_nowhere(output: Path, tmp_path: Path) -> None:  # R38
    outside = [make(tmp_path / "outside" / f"{number}.mp4", 10) for number in range(20)]
    sub = output / "sub"
    held = make(sub / "held.mp4")  # in use, so that the folder itself stays
    names = (str(sub), str(tmp_path / "aside"), str(tmp_path / "outside"))
    swapper = multiprocessing.get_context("spawn").Process(target=_swap, args=names)
    swapper.start()
    holder = held.open("rb")
    try:
        deleted = swapped = 0
        end = time.monotonic() + 60
        while not deleted or swapped < 100:
            assert time.monotonic() < end, (deleted, swapped)
            deleted += clean_ttl(str(output), ANY_AGE).deleted_files
            real = sub if sub.is_dir() and not sub.is_symlink() else tmp_path / "aside"
            swapped += real != sub
            for number in range(20):
                try:
                    descriptor = os.open(real, os.O_DIRECTORY | os.O_NOFOLLOW)
                except OSError:
                    continue
                os.close(os.open(f"{number}.mp4", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
                os.close(descriptor)
    finally:
        holder.close()
        swapper.kill()
        swapper.join()
    assert all(path.exists() for path in outside)


@NEEDS_ROOT
@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_a_mount_below_the_root_is_not_entered(output: Path, tmp_path: Path, kind: str) -> None:  # R38
    outside = tmp_path / "outside"
    make(outside / "video.mp4")
    (output / "mounted").mkdir()
    options = ["--bind", str(outside)] if kind == "bind" else ["-t", "tmpfs", "tmpfs"]
    if subprocess.run(["mount", *options, str(output / "mounted")], check=False).returncode:
        pytest.skip("SKIPPED, NOT PROVEN: this machine does not let root mount")
    try:
        video = make(output / "mounted" / "video.mp4")
        report = clean_ttl(str(output), ANY_AGE)
        assert video.exists()
        assert report.deleted_files == 0
    finally:
        subprocess.run(["umount", str(output / "mounted")], check=True)


@pytest.mark.parametrize("name", ["", " ", "/", "missing"])
def test_no_folder_or_the_wrong_one_is_refused(name: str) -> None:  # R39
    done = subprocess.run(
        [*LTXOPS, "clean", "ttl", "--dir", name, "--older-than", "1s", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert json.loads(done.stdout)["exit_code"] == 2


def test_an_unmarked_folder_is_refused(tmp_path: Path) -> None:  # R39
    video = make(tmp_path / "video.mp4")
    with pytest.raises(BadInput, match="not marked"):
        clean_ttl(str(tmp_path), ANY_AGE)
    (tmp_path / ".ltxops-output").mkdir()
    with pytest.raises(BadInput, match="not marked"):
        clean_ttl(str(tmp_path), ANY_AGE)
    (tmp_path / ".ltxops-output").rmdir()
    (tmp_path / ".ltxops-output").symlink_to(video)
    with pytest.raises(BadInput, match="not marked"):
        clean_ttl(str(tmp_path), ANY_AGE)
    assert video.exists()


@pytest.mark.parametrize("weights", ["models/x.safetensors", "ComfyUI/models/checkpoints/x.safetensors"])
def test_a_folder_with_weights_is_refused(output: Path, weights: str) -> None:  # R39
    kept = [make(output / weights), make(output / "video.mp4")]
    with pytest.raises(BadInput, match="weights"):
        clean_ttl(str(output), ANY_AGE)
    assert all(path.exists() for path in kept)


def test_a_folder_among_weights_is_refused(tmp_path: Path) -> None:  # R39
    folder = tmp_path / "models" / "loras"
    kept = make(folder / "x.safetensors")
    (folder / ".ltxops-output").touch()
    with pytest.raises(BadInput, match="models folder"):
        clean_ttl(str(folder), ANY_AGE)
    assert kept.exists()


def test_the_marker_and_comfyuis_placeholder_stay(output: Path) -> None:
    placeholder = make(output / "_output_images_will_be_put_here", 0)
    hidden = make(output / ".part-of-a-killed-job")
    clean_ttl(str(output), ANY_AGE)
    assert placeholder.exists()
    assert (output / ".ltxops-output").exists()
    assert not hidden.exists()


def test_a_second_run_is_busy_and_well(output: Path) -> None:  # R45
    video = make(output / "video.mp4")
    command = [*LTXOPS, "clean", "ttl", "--dir", str(output), "--older-than", "1s", "--json"]
    with open_output_root(str(output)) as root:
        assert lock(root)
        time.sleep(1.1)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert json.loads(done.stdout)["busy"] is True
    assert "busy" in done.stderr
    assert video.exists()
    assert json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["deleted_files"] == 1
