"""Ask a program over HTTP whether it is well, and read the end of its log."""

import http.client
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ltxops.upkeep.host import Health

#: A port that is open while nothing answers is as bad as a closed one; this long is waited for the answer.
ANSWER_SECONDS = 5.0
_TAIL_BYTES = 65536
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Answer:
    """Whether a program is well, and what it said, for a person; `status` is None without an answer."""

    ok: bool
    detail: str
    status: int | None = None


def ask(health: Health | None) -> Answer:
    """Ask the health URL. Redirects and proxies are not followed: the program itself must answer."""
    if health is None:
        return Answer(True, "-")
    parts = urlsplit(health.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        status = connection.getresponse().status
    except TimeoutError:
        return Answer(False, f"no answer within {ANSWER_SECONDS:.0f} s")
    except (OSError, http.client.HTTPException) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
        return Answer(False, text.lower() if isinstance(error, OSError) else f"no HTTP ({text})")
    finally:
        connection.close()
    if status == health.status:
        return Answer(True, str(status), status)
    return Answer(False, f"{status} instead of {health.status}", status)


def tail(log: str, lines: int) -> list[str]:
    """Return the last `lines` lines of a log without colours or control characters; empty if it has none."""
    if not log:
        return []
    try:
        with Path(log).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return []
    found = [clean(line) for line in text.strip().split("\n")]
    return [line for line in found if line][-lines:]


def clean(line: str) -> str:
    """Return a log line as it may be shown: its last state, no colours, no control characters."""
    shown = _ESCAPES.sub("", line.rstrip("\r").rsplit("\r", 1)[-1]).rstrip()
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in shown)
