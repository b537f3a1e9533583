"""The machine itself: disk, GPU, clock."""

import ctypes
import http.client
import shutil
import subprocess
import time
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from ltxops.units import format_bytes
from ltxops.upkeep.doctor.checks import Check, from_faults
from ltxops.upkeep.doctor.settings import Settings

#: S3 refuses signatures that are 15 minutes off, webhook receivers often 5.
MOST_SKEW_SECONDS = 60.0
_STA_UNSYNC = 0x0040  # adjtimex(2)


def check_disk(settings: Settings) -> Check:
    """There is room beyond what the cleaners keep free."""
    faults, said = [], []
    for folder in dict.fromkeys((settings.workspace, settings.state)):
        free = shutil.disk_usage(folder).free
        said.append(f"{folder} has {format_bytes(free)} free")
        if free < settings.min_free_bytes:
            faults.append(f"{said[-1]}, less than {format_bytes(settings.min_free_bytes)}")
    fix = "delete what is not needed; `ltxops clean pressure` deletes outputs that are old enough"
    return from_faults("disk", faults, ", ".join(said), fix)


def judge_gpus(answer: str) -> tuple[list[str], str]:
    """Read nvidia-smi's name, used and total memory (MiB), volatile uncorrected ECC errors, one GPU a line.

    Returns the faults and what was seen.
    """
    rows = [[word.strip() for word in line.split(",")] for line in answer.splitlines() if line.strip()]
    seen = [f"{row[0]} ({row[1]} of {row[2]} MiB in use)" for row in rows if len(row) == 4]
    worn = [row for row in rows if len(row) == 4 and row[3].isdigit() and int(row[3]) > 0]
    faults = [f"{row[0]} has {row[3]} uncorrected memory errors" for row in worn]
    return faults if seen else ["nvidia-smi names no GPU"], ", ".join(seen)


def check_gpu(settings: Settings) -> Check:
    """Every GPU answers, without memory errors."""
    if not settings.gpu_required:
        return Check("gpu", True, "none is needed on this host")
    query = "--query-gpu=name,memory.used,memory.total,ecc.errors.uncorrected.volatile.total"
    command = [settings.nvidia_smi, query, "--format=csv,noheader,nounits"]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=30)
    fix = "restart the host or rent another; `nvidia-smi` and the kernel's log say more"
    if asked.returncode != 0:
        return Check("gpu", False, f"nvidia-smi fails: {asked.stdout.strip() or asked.stderr.strip()}", fix)
    faults, seen = judge_gpus(asked.stdout)
    return from_faults("gpu", faults, seen, fix)


def check_clock(settings: Settings) -> Check:
    """The clock is right: the kernel says that it is kept, or the hub names the same time."""
    if kernel_keeps_time():
        return Check("clock", True, "kept in time by the kernel")
    return judge_clock(abs(time.time() - hub_time(settings.hub)), settings.hub)


def judge_clock(skew_seconds: float, hub: str) -> Check:
    """Judge a clock that nothing keeps in time by how far it is from the hub's."""
    return Check(
        "clock",
        skew_seconds <= MOST_SKEW_SECONDS,
        f"{skew_seconds:.0f} s from what {hub} says; nothing keeps it in time",
        "set it, and install chrony or systemd-timesyncd (in a container: on the machine below it)",
    )


def kernel_keeps_time() -> bool:
    """Ask adjtimex(2), changing nothing; `status` lies 40 bytes into its structure on 64-bit Linux."""
    buffer = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
        return False
    return not int.from_bytes(buffer.raw[40:44], "little") & _STA_UNSYNC


def hub_time(hub: str) -> float:
    """Return the time that the hub's answer names. Raises OSError or ValueError where it names none."""
    parts = urlsplit(hub)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request("HEAD", "/")
        date = connection.getresponse().getheader("Date")
    finally:
        connection.close()
    if date is None:
        raise ValueError(f"{hub} names no time")
    return parsedate_to_datetime(date).timestamp()
