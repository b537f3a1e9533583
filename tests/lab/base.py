"""The root file system that every bare host begins with, and what a host needs to reach packages."""

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

REPO = Path(__file__).parents[2]
#: What a bare host has beside what every Debian has.
PACKAGES = "python3,openssh-server,ca-certificates,sudo"
#: What this machine needs to reach its package registries, a host on it needs as well.
SYSTEM_FILES = ("etc/ssl/certs/ca-certificates.crt", "etc/resolv.conf", "etc/hosts", "etc/pip.conf")
APT_SETTINGS = ("sources.list", "sources.list.d", "apt.conf.d")
DEBOOTSTRAP_SECONDS = 600


def base_file_system() -> Path:
    """Return a minimal root file system, made once in a checkout and then kept in .test/. Needs root."""
    base = REPO / ".test" / f"base-{hashlib.sha1(PACKAGES.encode(), usedforsecurity=False).hexdigest()[:8]}"
    base.parent.mkdir(exist_ok=True)
    # Several processes may want it at once; the first one makes it.
    with base.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.is_dir():
            _make(base)
    return base


def _make(base: Path) -> None:
    """Make the root file system; it appears under its name when it is whole."""
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )["VERSION_CODENAME"]
    part = base.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", release, str(part)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=DEBOOTSTRAP_SECONDS)
    if made.returncode != 0:
        raise RuntimeError(
            f"debootstrap made no base file system:\n{made.stdout[-2000:]}{made.stderr[-500:]}"
        )
    part.rename(base)


def give_package_settings(files: Path) -> None:
    """Copy this machine's settings for apt, pip, names and certificates into the host's `files`."""
    for name in SYSTEM_FILES:
        if Path("/", name).is_file():
            (files / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path("/", name), files / name)
    for name in APT_SETTINGS:
        source = Path("/etc/apt", name)
        if source.is_dir():
            shutil.copytree(source, files / "etc/apt" / name)
        elif source.is_file():
            (files / "etc/apt").mkdir(parents=True, exist_ok=True)
            shutil.copy(source, files / "etc/apt" / name)
