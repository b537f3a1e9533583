"""Running one command and measuring its whole process tree: time, CPU, memory, bytes read."""

import contextlib
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Rarely: each look stops the threads of what is measured, and costs the one with many the most.
_SAMPLE_SECONDS = 0.25


@dataclass(frozen=True)
class Measured:
    """What a command took. `exit_code` is None when it was ended at its deadline.

    `cpu_seconds` is user and system time of the command and of all that it waited for. `peak_bytes` is
    resident memory: the largest sum over the tree of what was sampled, or one process's own peak if that is
    more. `read_bytes` is what the first process asked the kernel to read, from files and sockets alike.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    read_bytes: int
    exit_code: int | None
    last_line: str


def measure(
    command: Sequence[str], environment: Mapping[str, str], log: Path, deadline_seconds: float
) -> Measured:
    """Run `command` in a process group of its own with its output in `log`; nothing of it is left running."""
    with log.open("wb") as output:
        begin = time.monotonic()
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        peak, ended = 0, False
        handle = os.pidfd_open(process.pid)
        try:
            while not ended and time.monotonic() - begin < deadline_seconds:
                peak = max(peak, tree_memory(process.pid))
                # Readable once the process has ended; it is not reaped by that.
                ended = bool(select.select([handle], [], [], _SAMPLE_SECONDS)[0])
            seconds = time.monotonic() - begin
            read = _read_bytes(process.pid)
        finally:
            os.close(handle)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    return Measured(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_bytes=peak,
        read_bytes=read,
        exit_code=process.returncode if ended else None,
        last_line=last_line(log.read_bytes().decode(errors="replace")),
    )


def tree_memory(root: int) -> int:
    """Return the resident bytes of a process and all below it, or the peak of one of them if more."""
    resident, peak = 0, 0
    for pid in _tree(root):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
            resident += _kib(status, "VmRSS") * 1024
            peak = max(peak, _kib(status, "VmHWM") * 1024)
    return max(resident, peak)


def last_line(text: str) -> str:
    """Return the last line about an error, or else the last one, without colours and shortened."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\berror(code)?\b", line, re.IGNORECASE)]
    return (errors or lines or [""])[-1][:160]


def _tree(root: int) -> Iterator[int]:
    yield root
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{root}/task").iterdir():
            for child in (task / "children").read_text(encoding="ascii").split():
                yield from _tree(int(child))


def _kib(status: str, name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    return int(match[1]) if match else 0


def _read_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/io").read_text(encoding="ascii")
    except OSError:
        return 0
    match = re.search(r"^rchar: (\d+)", text, re.MULTILINE)
    return int(match[1]) if match else 0
