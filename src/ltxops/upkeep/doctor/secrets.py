"""Secrets of the host: how strong and old its tokens are, who may read them, and whether they leaked."""

import re
import shlex
import time
from contextlib import suppress
from pathlib import Path

from ltxops.upkeep.doctor.checks import Check, from_faults
from ltxops.upkeep.doctor.settings import Settings
from ltxops.upkeep.host import Host
from ltxops.upkeep.tokens import GIVEN, Token, read_all

#: Less can be guessed in time by somebody who has many machines.
LEAST_BITS = 64
OLDEST_DAYS = 365
_NAME_OF_SECRET = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SHORTEST = 8
_CHUNK = 2**22


def judge_tokens(tokens: list[Token], now: float) -> list[str]:
    """Return a sentence for each token that is weak or old."""
    weak = [f"the token {it.name} can be guessed ({it.bits} bits)" for it in tokens if it.bits < LEAST_BITS]
    old = [
        f"the token {it.name} is {it.age_seconds(now) / 86400:.0f} days old"
        for it in tokens
        if it.age_seconds(now) > OLDEST_DAYS * 86400
    ]
    return weak + old


def check_tokens(settings: Settings) -> Check:
    """The gateway's tokens are strong and not too old."""
    if not settings.host.token_file:
        return Check("tokens", True, "the platform guards this host: there is no gateway of ours")
    tokens = read_all(settings.etc)
    faults = judge_tokens(tokens, time.time()) if tokens else ["there is no token"]
    fix = "make another with `ltxops token new`, move the clients, revoke this one (docs/gateway.md)"
    return from_faults("tokens", faults, f"strong: {', '.join(token.name for token in tokens)}", fix)


def parse_environment(text: str) -> dict[str, str]:
    """Return the secrets in an environment file of ours, by name."""
    pairs = [line.split("=", 1) for line in shlex.split(text, comments=True) if "=" in line]
    return {name: value for name, value in pairs if _NAME_OF_SECRET.search(name) and len(value) >= _SHORTEST}


def secret_files(etc: Path) -> list[Path]:
    """Return the files that hold secrets."""
    named = [etc / "token", etc / "gateway/tokens.conf", etc / "models/hub-token"]
    found = [*named, *etc.glob("tokens/*"), *etc.glob(f"{GIVEN}/*"), *etc.glob("*.env")]
    return sorted(path for path in found if path.is_file())


def known_secrets(settings: Settings) -> dict[str, bytes]:
    """Return every secret of the host by what it is called. Raises OSError for a file that cannot be read."""
    found = {f"the token {token.name}": token.value for token in read_all(settings.etc)}
    for path in settings.etc.glob("*.env"):
        found |= parse_environment(path.read_text())
    hub_token = settings.etc / "models/hub-token"
    if hub_token.is_file() and (value := hub_token.read_text().strip()):
        found["the hub's token"] = value
    return {name: value.encode() for name, value in found.items()}


def check_files(settings: Settings) -> Check:
    """Each file with a secret is its owner's alone, and that owner is not ComfyUI's user."""
    files = secret_files(settings.etc)
    faults = []
    for path in files:
        status = path.stat()
        if status.st_mode & 0o077:
            faults.append(f"{path} has mode {status.st_mode & 0o777:04o}")
        if settings.is_ours and path.owner() == settings.engine_user:
            faults.append(f"{path} belongs to {settings.engine_user}, which runs other people's code")
    for folder in (settings.etc, *(settings.etc / name for name in ("gateway", "tokens", GIVEN))):
        if folder.is_dir() and folder.stat().st_mode & 0o022:
            faults.append(f"{folder} can be written to by others")
    return from_faults(
        "secret files",
        faults,
        f"{len(files)} files, each its owner's alone",
        "chmod 600 it, or provision again",
    )


def check_leaks(settings: Settings) -> Check:
    """No secret is in a command line or in a log."""
    secrets = known_secrets(settings)
    faults = [f"{name} is in the command line of {who}" for name, who in in_command_lines(secrets)]
    logs = [
        path for folder in _log_folders(settings.host, settings.logs) for path in sorted(folder.iterdir())
    ]
    logs = [path for path in logs if path.is_file()]
    faults += [f"{name} is in {path}" for path in logs for name in in_file(path, secrets)]
    good = f"none of {len(secrets)} secrets is in {len(logs)} logs or in a command line"
    return from_faults("leaks", faults, good, "replace that secret, then delete the log")


def in_command_lines(secrets: dict[str, bytes]) -> list[tuple[str, str]]:
    """Return which secrets are in the command line of which process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        # A process may end between the listing and the reading.
        with suppress(OSError):
            line = entry.read_bytes()
            found += [(name, f"pid {entry.parent.name}") for name, value in secrets.items() if value in line]
    return found


def in_file(path: Path, secrets: dict[str, bytes]) -> list[str]:
    """Return which secrets are in a file, read in pieces that overlap."""
    overlap = max((len(value) for value in secrets.values()), default=0)
    found: set[str] = set()
    with path.open("rb") as file:
        window = b""
        while chunk := file.read(_CHUNK):
            window = window[-overlap:] + chunk if overlap else chunk
            found |= {name for name, value in secrets.items() if value in window}
    return sorted(found)


def _log_folders(host: Host, logs: Path) -> list[Path]:
    named = {Path(program.log).parent for program in host.programs if program.log}
    return sorted(folder for folder in {logs, *named, Path("/var/log/portal")} if folder.is_dir())
