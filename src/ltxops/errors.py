"""Every failure this project reports, one class an exit code.

A message says what failed, the value that was seen, and what to do about it; the command line prints it as
one line and exits with the class's code.
"""


class LtxopsError(Exception):
    """Base of all reported failures. `exit_code` is what the process ends with."""

    exit_code = 1


class CheckFailed(LtxopsError):
    """A check did not pass, a service is down, or a port is taken."""

    exit_code = 1


class BadInput(LtxopsError):
    """Input or configuration is wrong; nothing was touched."""

    exit_code = 2


class IntegrityError(LtxopsError):
    """Bytes do not match what was promised."""

    exit_code = 3


class DiskFull(LtxopsError):
    """There is not enough disk for what was asked."""

    exit_code = 4


class NetworkError(LtxopsError):
    """The network or the hub could not be reached after bounded retries."""

    exit_code = 5


class Busy(LtxopsError):
    """Another run holds the lock."""

    exit_code = 6


class AccessDenied(LtxopsError):
    """A token is missing or refused, or the repository is gated."""

    exit_code = 7
