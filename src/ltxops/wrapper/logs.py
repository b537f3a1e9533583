"""The wrapper's log, safe to be tailed by a program that acts on what it reads.

Vast's PyWorker takes three words anywhere in a line for signals. They may only appear when the wrapper means
them, whatever a request, a node or a file name says, and a line of the log is always one event.
"""

import logging
import re
import sys

from ltxops.wrapper.delivery.redaction import redact

#: What PyWorker looks for, by substring, in any line.
SIGNALS = ("BACKENDS_READY", "BACKEND_UNRECOVERABLE", "Application startup failed")

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_SIGNAL = re.compile("|".join(map(re.escape, SIGNALS)), re.IGNORECASE)


def harmless(text: str) -> str:
    """Return `text` with control characters written out, line breaks indented and no signal left in it."""
    text = _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)
    text = _SIGNAL.sub(lambda match: match[0].replace("_", "-").replace(" ", "-"), text)
    return text.replace("\n", "\n    | ")


class HarmlessFormatter(logging.Formatter):
    """Formats every record, tracebacks included: none passes for a signal or another record.

    Links lose their keys.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one event."""
        return harmless(redact(super().format(record)))


def set_up_logging() -> None:
    """Send the records of this program and of its server to stderr through the formatter."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(HarmlessFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def signal(line: str) -> None:
    """Print a line meant for PyWorker, alone on its line, at once."""
    print(line, flush=True)
