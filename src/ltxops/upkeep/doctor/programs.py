"""The programs: whether they run and answer, as whom, what went wrong, and whether they generate."""

import http.client
import json
import os
import pwd
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

from ltxops.upkeep import faults as noted
from ltxops.upkeep.doctor.checks import Check, from_faults
from ltxops.upkeep.doctor.settings import Settings
from ltxops.upkeep.health import tail
from ltxops.upkeep.services import TAIL_LINES, look

DAY_SECONDS = 86400.0
#: So many restarts of one program in a day are a pattern; fewer happen when an operator works on a host.
MANY_RESTARTS = 5
#: The watchdog writes its record at every turn.
OLDEST_RECORD_SECONDS = 120.0
#: What nobody may reach without a token.
GUARDED = (
    "/",
    "/prompt",
    "/api/prompt",
    "/queue",
    "/ws",
    "/view?filename=x",
    "/upload/image",
    "/generate",
    "/docs",
)
_CERTIFICATE_DAYS = 14


def check_programs(settings: Settings) -> Check:
    """Every program is RUNNING and answers; the end of the log of one that gave up is shown."""
    found = []
    for status in look(settings.host):
        if not status.ok:
            lines = (
                tail(status.program.log, TAIL_LINES) if status.process.state in ("FATAL", "BACKOFF") else []
            )
            found.append("\n  | ".join([status.complaint(), *lines]))
    names = ", ".join(program.name for program in settings.host.programs)
    return from_faults(
        "programs", found, f"running and well: {names}", "see its log; `supervisorctl restart NAME`"
    )


def parse_status(text: str) -> tuple[int, bool]:
    """Return the real user id and whether no new privileges can be had, of a /proc/PID/status."""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return int(fields["Uid"].split()[0]), fields.get("NoNewPrivs", "0").strip() == "1"


def check_privileges(settings: Settings) -> Check:
    """ComfyUI runs as its own user, no program can gain privileges, the weights are safe from ComfyUI."""
    found = []
    for status in look(settings.host):
        if not status.process.pid:
            continue
        user, bound = parse_status(Path(f"/proc/{status.process.pid}/status").read_text())
        if not bound:
            found.append(f"{status.program.name} could gain privileges")
        if settings.is_ours and status.program.name == "comfyui" and user != _uid(settings.engine_user):
            found.append(f"comfyui runs as user {user}, not as {settings.engine_user}")
    weights = [settings.models, *settings.models.rglob("*")] if settings.is_ours else []
    found += [
        f"{settings.engine_user} may change {it}" for it in weights if may_write(it, settings.engine_user)
    ]
    good = "bound programs" + (", weights that ComfyUI cannot change" if settings.is_ours else "")
    return from_faults("privileges", found, good, "provision the host again")


def may_write(path: Path, user: str) -> bool:
    """Tell whether a user may write to a file or folder by its mode."""
    status, account = path.stat(), pwd.getpwnam(user)
    if account.pw_uid in (0, status.st_uid):
        return bool(status.st_mode & 0o200) or account.pw_uid == 0
    groups = os.getgrouplist(user, account.pw_gid)
    return bool(status.st_mode & (0o020 if status.st_gid in groups else 0o002))


def check_gateway(settings: Settings) -> Check:
    """Nothing answers without a token."""
    if not settings.host.token_file:
        return Check("gateway", True, "the platform guards this host: there is no gateway of ours")
    parts = urlsplit(settings.host.url)
    found = []
    for path in GUARDED:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        connection.request("GET", path)
        status = connection.getresponse().status
        connection.close()
        if status != 401:
            found.append(f"{path} answers {status} without a token")
    if settings.tls_certificate:
        seconds = str(_CERTIFICATE_DAYS * 86400)
        command = ["openssl", "x509", "-noout", "-checkend", seconds, "-in", settings.tls_certificate]
        if subprocess.run(command, capture_output=True, timeout=30).returncode != 0:
            found.append(
                f"{settings.tls_certificate} ends within {_CERTIFICATE_DAYS} days, or cannot be read"
            )
    good = f"{len(GUARDED)} paths, each closed without a token"
    return from_faults("gateway", found, good, "provision the host again (for a certificate: renew it first)")


def judge_faults(faults: list[noted.Fault]) -> list[str]:
    """Return a sentence for each program and kind of fault of a day that a person should look at."""
    counts: dict[tuple[str, str], int] = {}
    for fault in faults:
        counts[fault.program, fault.kind] = counts.get((fault.program, fault.kind), 0) + 1
    words = {
        "hang": "hung",
        "memory": "ran out of memory",
        "cuda": "lost its GPU",
        "restart": "was started again",
    }
    return [
        f"{program} {words[kind]} {count} times in a day"
        for (program, kind), count in sorted(counts.items())
        if kind != "restart" or count >= MANY_RESTARTS
    ]


def check_faults(settings: Settings) -> Check:
    """The watchdog lives, and nothing hung, ran out of memory or lost its GPU in the last day."""
    file = settings.state / "watchdog.json"
    now = time.time()
    age = now - file.stat().st_mtime
    if age > OLDEST_RECORD_SECONDS:
        return Check("faults", False, f"the watchdog wrote its record {age:.0f} s ago", "restart watchdog")
    record = noted.load(file)
    totals = ", ".join(f"{name} {count}" for name, count in sorted(record.totals.items())) or "none ever"
    found = judge_faults(record.since(now - DAY_SECONDS))
    if found:
        found.append(f"last: {record.faults[-1].detail}")
    return from_faults(
        "faults", found, f"none in a day that matters (all: {totals})", f"see {file} and the logs"
    )


def check_smoke(settings: Settings) -> Check:
    """The last generation that proved the host was good."""
    reports = list((settings.state / "smoke").glob("*/report.json"))
    fix = "run the playbook, or `ltxops smoke`"
    if not reports:
        return Check("smoke", False, "no generation has proven this host", fix)
    latest = max(reports, key=lambda path: path.stat().st_mtime)
    report = json.loads(latest.read_text())
    days = (time.time() - latest.stat().st_mtime) / DAY_SECONDS
    said = f"the last generation, {days:.1f} days ago, {'passed' if report['ok'] else 'failed'} ({latest})"
    return Check("smoke", report["ok"] is True, said, fix)


def _uid(user: str) -> int:
    return pwd.getpwnam(user).pw_uid
