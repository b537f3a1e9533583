"""Run every check of the doctor. A check that could not run is one that failed."""

import subprocess
from collections.abc import Callable
from http.client import HTTPException

from ltxops.errors import LtxopsError
from ltxops.upkeep.doctor import cleaning, machine, programs, secrets, settings, sockets, versions
from ltxops.upkeep.doctor.checks import Check
from ltxops.upkeep.doctor.settings import Settings

CHECKS: dict[str, Callable[[Settings], Check]] = {
    "programs": programs.check_programs,
    "gateway": programs.check_gateway,
    "sockets": sockets.check,
    "privileges": programs.check_privileges,
    "versions": versions.check,
    "tokens": secrets.check_tokens,
    "secret files": secrets.check_files,
    "leaks": secrets.check_leaks,
    "cleaners": cleaning.check_cleaners,
    "cleaning": cleaning.check_runs,
    "disk": machine.check_disk,
    "gpu": machine.check_gpu,
    "clock": machine.check_clock,
    "faults": programs.check_faults,
    "smoke": programs.check_smoke,
}


#: What a file of another shape, a host that is half gone, or a program that hangs makes a check end with.
_CANNOT_RUN = (
    LtxopsError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    HTTPException,
    subprocess.SubprocessError,
)


def examine(file: str) -> list[Check]:
    """Run all checks on the host that `file` describes. Raises BadInput for a description of no use."""
    described = settings.read(file)
    return [_run(name, check, described) for name, check in CHECKS.items()]


def verdict(checks: list[Check]) -> str:
    """Return one sentence that names what is not right, or an empty text."""
    wrong = [check for check in checks if not check.ok]
    said = "; ".join(f"{check.name}: {check.detail}" for check in wrong)
    return f"{len(wrong)} of {len(checks)} checks failed: {said}" if wrong else ""


def _run(name: str, check: Callable[[Settings], Check], described: Settings) -> Check:
    try:
        return check(described)
    except _CANNOT_RUN as error:
        detail = f"could not run: {error or repr(error)}"
        return Check(
            name, False, detail, "run it as root on the host; provision again where something is gone"
        )
