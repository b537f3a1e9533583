"""Runs on a host: writes a program's log to stdout and goes on with it, across rotations, from any position.

`tail -F` would do for a terminal, but it cannot take up a log where a lost connection left it. Each line of
the output has a first character that says what it is:

    =text      a line of the log
    @position  all lines so far are complete; start here again with --after. Also sent when nothing happens
    !text      a remark, such as lines that are lost

A line counts once its newline is there, and may be cut in two by a rotation. Ends when its stdin does, so
that nothing is left on the host when the connection is gone.
"""

import argparse
import os
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ltxops.errors import CheckFailed, LtxopsError
from ltxops.fleet.rotation import Part, Position, after, last_lines, newer_than, parse_position
from ltxops.upkeep.host import load
from ltxops.upkeep.restart import named

POLL_SECONDS = 0.2
#: The other side takes a connection for dead that has been silent for several times as long.
HEARTBEAT_SECONDS = 5.0
#: A line longer than this is shown in pieces.
_LINE_BYTES = 1 << 20


class Gone(Exception):
    """Nobody reads any more."""


class Output:
    """Turns bytes of the log into lines, and keeps the position up to which they are complete."""

    def __init__(self) -> None:
        self._rest = b""
        self._position: Position | None = None
        self._sent = 0.0

    def take(self, part: Part, data: bytes) -> None:
        """Write the lines that `data`, the bytes before the part's offset, completes."""
        *lines, rest = (self._rest + data).split(b"\n")
        if len(rest) > _LINE_BYTES:
            lines, rest = [*lines, rest], b""
        self._rest = rest
        if lines:
            self._position = part.position(part.offset - len(rest))
            self._write(b"".join(b"=%s\n" % line for line in lines) + self._mark())

    def begin(self, part: Part) -> None:
        """Take the place where reading begins for the first position."""
        self._position = part.position(part.offset)
        self._write(self._mark())

    def remark(self, text: str) -> None:
        """Write a remark; what stood before a break in the log is no beginning of what follows it."""
        line, self._rest = self._rest, b""
        self._write((b"=%s\n" % line if line else b"") + f"!{text}\n".encode())

    def heartbeat(self) -> None:
        """Show from time to time that this is alive; finds out, too, when the reader is not."""
        if time.monotonic() - self._sent >= HEARTBEAT_SECONDS:
            self._write(self._mark())

    def finish(self) -> None:
        """Write what stands at the end without a newline."""
        if self._rest:
            self._write(b"=%s\n" % self._rest)
        self._write(self._mark())

    def _mark(self) -> bytes:
        return f"@{self._position or ''}\n".encode()

    def _write(self, data: bytes) -> None:
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise Gone from None
        self._sent = time.monotonic()


def _pause(seconds: float) -> None:
    """Wait; raises Gone when stdin ends."""
    readable, _, _ = select.select([0], [], [], seconds)
    if readable and not os.read(0, 4096):
        raise Gone


def _begin(path: Path, lines: int, position: Position | None, output: Output) -> list[Part]:
    if position is None:
        return last_lines(path, lines)
    queue, complete = after(path, position)
    if queue and not complete:
        output.remark("the log was rotated away or emptied meanwhile: some lines may be missing")
    return queue


def show(path: Path, lines: int, position: Position | None, forever: bool) -> None:
    """Write the log from its last `lines` lines, or from `position`; then, if `forever`, what is added to it.

    Raises Gone when the reader has gone, CheckFailed where there is no log, or it may not be read.
    """
    output = Output()
    while not (queue := _begin(path, lines, position, output)):
        if not forever:
            raise CheckFailed(f"there is no log at {path} yet: has the program been started?")
        output.heartbeat()
        _pause(POLL_SECONDS)
    current = queue.pop(0)
    output.begin(current)
    while True:
        while data := current.read():
            output.take(current, data)
        if queue:
            current.file.close()
            current = queue.pop(0)
        elif not forever:
            output.finish()
            return
        elif current.size < current.offset:
            output.remark("the log was emptied")
            current.offset = 0
        elif _is_another(path, current):
            # Who wrote it may finish a last line in it; only then is the newer file looked at.
            _pause(POLL_SECONDS)
            while data := current.read():
                output.take(current, data)
            queue, complete = newer_than(current, path)
            if not complete:
                output.remark("the log was rotated faster than it could be read: some lines may be missing")
        else:
            output.heartbeat()
            _pause(POLL_SECONDS)


def _is_another(path: Path, current: Part) -> bool:
    try:
        return path.stat().st_ino != current.inode
    except FileNotFoundError:
        return False  # in the midst of a rotation, or deleted: a new one will appear


def main(argv: Sequence[str] | None = None) -> int:
    """Run as `python -m ltxops.fleet.follow`; returns the exit code of ltxops.errors."""
    parser = argparse.ArgumentParser(prog="python -m ltxops.fleet.follow", description=(__doc__ or ""))
    parser.add_argument("--config", required=True, metavar="FILE")
    parser.add_argument("--program", required=True, metavar="NAME")
    parser.add_argument("--lines", type=int, default=10)
    parser.add_argument("--after", default="", metavar="POSITION")
    parser.add_argument("--forever", action="store_true")
    args = parser.parse_args(argv)
    try:
        program = named(load(args.config), args.program)
        if not program.log:
            raise CheckFailed(f"{program.name} has no log in {args.config}")
        position = parse_position(args.after) if args.after else None
        show(Path(program.log), args.lines, position, args.forever)
    except Gone:
        return 0
    except LtxopsError as error:
        print(f"ltxops: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"ltxops: the log of {args.program} cannot be read: {error}", file=sys.stderr)
        return CheckFailed.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
