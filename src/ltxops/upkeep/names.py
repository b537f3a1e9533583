"""Names as files have them, and as a log may show them; and when a file last changed."""

import os


def printable(path: str) -> str:
    """Return a file name that is safe to print: control characters and undecodable bytes are escaped."""
    if path.isascii() and path.isprintable():
        return path
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def changed_at(mtime_ns: int, ctime_ns: int, now_ns: int) -> int:
    """Return when a file last changed, in nanoseconds since the epoch.

    The later of mtime and ctime: a file copied in with an old mtime is new by its ctime, which only the
    kernel sets. An mtime in the future says nothing, so the ctime alone decides; a ctime in the future keeps
    the file.
    """
    if mtime_ns <= ctime_ns or mtime_ns > now_ns:
        return ctime_ns
    return mtime_ns
