"""The options of ssh(1) that an inventory gives a host, such as a jump host, as settings of ssh_config."""

import getopt
import shlex
from pathlib import Path

from paramiko import SSHConfig
from paramiko.ssh_exception import ConfigParseError

from ltxops.errors import BadInput

#: The options that OpenSSH's ssh takes (ssh(1)).
_KNOWN = "1246AB:CD:E:F:GI:J:KL:MNO:P:Q:R:S:TVW:XYab:c:e:fgi:kl:m:no:p:qstvw:xy"
_MEANS = {"-J": "proxyjump", "-i": "identityfile", "-l": "user", "-p": "port"}


def settings(name: str, ssh_args: str, address: str) -> dict[str, list[str]]:
    """Return what `ansible_ssh_*_args` set, by lower-case name of ssh_config(5); the first of each wins.

    Settings that only make ssh quicker or quieter are in it too, and nobody looks at them. Raises BadInput
    that names the host.
    """
    try:
        options, rest = getopt.getopt(shlex.split(ssh_args), _KNOWN)
    except (ValueError, getopt.GetoptError) as error:
        raise BadInput(
            f"{name}: ansible_ssh_args or its like, {ssh_args!r}, is no list of ssh's options ({error})"
        ) from None
    if rest:
        raise BadInput(f"{name}: ansible_ssh_args or its like, {ssh_args!r}: {rest[0]!r} is no option of ssh")
    found: dict[str, list[str]] = {}
    files: list[str] = []
    for option, value in options:
        if option == "-o":
            word, _, value = value.replace("=", " ", 1).strip().partition(" ")
            _add(found, word, value.strip())
        elif option == "-F":
            files.append(value)
        elif option in _MEANS:
            _add(found, _MEANS[option], value)
    for file in files:
        try:
            content = SSHConfig.from_path(str(Path(file).expanduser())).lookup(address)
        except (OSError, ConfigParseError) as error:
            raise BadInput(f"{name}: the ssh configuration {file} cannot be read: {error}") from None
        for word, value in content.items():
            if word not in found:
                found[word] = list(value) if isinstance(value, list) else [str(value)]
    return found


def _add(found: dict[str, list[str]], word: str, value: str) -> None:
    """Keep the first value of a setting; of identity files all."""
    key = word.lower()
    if key == "identityfile" or key not in found:
        found.setdefault(key, []).append(value)
