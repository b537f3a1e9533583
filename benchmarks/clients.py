"""The clients that are compared, each as one command line, at the settings its users know as the best.

Every client ends with the same files under `target`; ours is the command of this checkout.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tree import REPO, Promise

_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Job:
    """What to fetch from where. `scratch` takes lists of URLs and a client's home folder."""

    hub: str
    manifest: Path
    profile: str
    files: Mapping[str, Promise]
    target: Path
    scratch: Path

    def url(self, name: str) -> str:
        """Return where the hub has a file."""
        return f"{self.hub}/{REPO}/resolve/main/{name}"


@dataclass(frozen=True)
class Client:
    """One way to fetch the files. `verifies` is what it compares itself; `tool` is the program it needs."""

    name: str
    verifies: str
    tool: str
    command: Callable[[Job], list[str]]


def environment(job: Job, base: Mapping[str, str]) -> dict[str, str]:
    """Return `base` without proxies, settings of the hub or a home folder that could change a client."""
    dropped = ("HF_", "XDG_", "LTXOPS_")
    kept = {
        name: value
        for name, value in base.items()
        if not name.startswith(dropped) and not name.lower().endswith("_proxy")
    }
    return kept | {
        "HOME": str(job.scratch),
        "HF_HOME": str(job.scratch / "hf"),
        "HF_ENDPOINT": job.hub,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def _ours(job: Job) -> list[str]:
    return [
        *(sys.executable, "-m", "ltxops.cli.main", "models", "sync", "--hub", job.hub, "--reserve", "0"),
        *("--manifest", str(job.manifest), "--profile", job.profile, "--root", str(job.target)),
    ]


def _hf(job: Job) -> list[str]:
    # All files of a repository are asked for without names, which is the quickest way.
    names = [] if job.profile == "all" else list(job.files)
    return [str(_BIN / "hf"), "download", REPO, *names, "--local-dir", str(job.target)]


def _hf_and_sha256sum(job: Job) -> list[str]:
    sums = job.scratch / "SHA256SUMS"
    sums.write_text(
        "".join(f"{promise.sha256}  {name}\n" for name, promise in job.files.items()), encoding="utf-8"
    )
    check = f"cd {shlex.quote(str(job.target))} && sha256sum --quiet --check {shlex.quote(str(sums))}"
    return ["bash", "-c", f"{shlex.join(_hf(job))} && {check}"]


def _aria2c(job: Job) -> list[str]:
    listing = job.scratch / "aria2.txt"
    listing.write_text(
        "".join(
            f"{job.url(name)}\n  out={name}\n  checksum=sha-256={promise.sha256}\n"
            for name, promise in job.files.items()
        ),
        encoding="utf-8",
    )
    return [
        *("aria2c", "--no-conf", "-x16", "-s16", "-j4"),
        *(
            "--continue=true",
            "--auto-file-renaming=false",
            "--console-log-level=warn",
            "--summary-interval=0",
        ),
        *(f"--dir={job.target}", f"--input-file={listing}"),
    ]


def _curl(job: Job) -> list[str]:
    config = job.scratch / "curl.txt"
    config.write_text(
        "".join(f'url = "{job.url(name)}"\noutput = "{job.target / name}"\n' for name in job.files),
        encoding="utf-8",
    )
    return [
        *("curl", "--disable", "--parallel", "--parallel-immediate", "--location", "--fail", "--create-dirs"),
        *("--retry", "5", "--no-progress-meter", "--config", str(config)),
    ]


def _wget(job: Job) -> list[str]:
    listing = job.scratch / "wget.txt"
    for name in job.files:
        (job.target / name).parent.mkdir(parents=True, exist_ok=True)
    listing.write_text(
        "".join(f"{job.target / name}\n{job.url(name)}\n" for name in job.files), encoding="utf-8"
    )
    return [
        *("xargs", "--arg-file", str(listing), "-P5", "-n2"),
        *("wget", "--no-config", "--no-verbose", "--continue", "-O"),
    ]


OURS = "ltxops"
HF, HF_VERIFIED = "hf download", "hf + sha256sum"
ARIA2C, CURL, WGET = "aria2c -x16 + checksum", "curl --parallel", "wget, five at a time"

CLIENTS = (
    Client(OURS, "sha256", sys.executable, _ours),
    Client(HF, "size", str(_BIN / "hf"), _hf),
    Client(HF_VERIFIED, "sha256", str(_BIN / "hf"), _hf_and_sha256sum),
    Client(ARIA2C, "sha256", "aria2c", _aria2c),
    Client(CURL, "nothing", "curl", _curl),
    Client(WGET, "nothing", "wget", _wget),
)

#: Short names for the command line.
SHORT = dict(zip(("ltxops", "hf", "hf-sha256sum", "aria2c", "curl", "wget"), CLIENTS, strict=True))

_INSTALL = {"aria2c": "apt-get install aria2", "curl": "apt-get install curl", "wget": "apt-get install wget"}


def missing_tools(clients: Iterable[Client]) -> dict[str, str]:
    """Return each program that is not here, with the command that installs it."""
    return {
        client.tool: _INSTALL.get(client.tool, "pip install huggingface-hub")
        for client in clients
        if shutil.which(client.tool, path=os.environ.get("PATH")) is None
    }
