"""The hosts of an Ansible inventory, and how each is reached.

Ansible itself is asked, so that every kind of inventory, group and host variables, templates and vaults mean
what they mean to ansible-playbook. `ansible-inventory --list` would show templates as they were written; the
debug module, which runs on the control machine and connects to nobody, renders them.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ltxops.errors import BadInput

#: What is asked of each host: our name and the variables that may hold it, the first one wins
#: (https://docs.ansible.com/ansible/latest/collections/ansible/builtin/ssh_connection.html).
_ASKED = {
    "connection": ("ansible_connection",),
    "address": ("ansible_host", "ansible_ssh_host"),
    "port": ("ansible_port", "ansible_ssh_port"),
    "user": ("ansible_user", "ansible_ssh_user"),
    "password": ("ansible_password", "ansible_ssh_password", "ansible_ssh_pass"),
    "key": ("ansible_ssh_private_key_file", "ansible_private_key_file"),
    "args": ("ansible_ssh_args",),
    "common_args": ("ansible_ssh_common_args",),
    "extra_args": ("ansible_ssh_extra_args",),
    "become": ("ansible_become",),
    "become_method": ("ansible_become_method",),
    "become_user": ("ansible_become_user",),
    "become_password": ("ansible_become_password", "ansible_become_pass"),
    "scope": ("ltxops_scope",),
    "root": ("ltxops_root",),
    "etc": ("ltxops_etc_dir",),
    "home": ("ltxops_home",),
}
_SSH = ("ssh", "smart", "paramiko", "paramiko_ssh")
_ANSWER = re.compile(r"^(\S+) \| (SUCCESS|FAILED!|UNREACHABLE!)[^\n]*? => (?=\{)", re.MULTILINE)
_ANSWER_SECONDS = 300


@dataclass(frozen=True)
class Target:
    """One host: how it is reached, and where things lie on it (the defaults of role ltxops).

    Passwords are not shown by `repr`. `become` is None where the inventory does not say.
    """

    name: str
    address: str
    local: bool = False
    port: int | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    key: str | None = None
    ssh_args: str = ""
    become: bool | None = None
    become_user: str = "root"
    become_password: str | None = field(default=None, repr=False)
    scope: str = "host"
    etc: str = "/etc/ltxops"
    home: str = "/opt/ltxops"

    @property
    def host_file(self) -> str:
        """Return where the host's description lies on it."""
        return f"{self.etc}/host.json"


#: By name; in the place of a host whose variables are wrong, what is wrong.
Inventory: TypeAlias = "dict[str, Target | BadInput]"


def read(project: Path, inventory: str, pattern: str) -> Inventory:
    """Ask Ansible for the hosts that match `pattern`, as in `--limit`, in the inventory's order.

    `project` is the folder of ansible.cfg, which names the inventory where `inventory` is empty. Raises
    BadInput with Ansible's own words.
    """
    command = [
        _ansible(),
        pattern,
        "-m",
        "ansible.builtin.debug",
        "-a",
        f"msg={_question()}",
        "--forks",
        "16",
    ]
    if inventory:
        command += ["-i", _absolute(inventory)]
    environment = {
        **os.environ,
        "ANSIBLE_STDOUT_CALLBACK": "minimal",
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "false",
        "ANSIBLE_NOCOLOR": "true",
        "ANSIBLE_FORCE_COLOR": "false",
        "ANSIBLE_NO_LOG": "false",
        "ANSIBLE_VERBOSITY": "0",
        # The answers hold passwords of connections.
        "ANSIBLE_LOG_PATH": os.devnull,
    }
    try:
        done = subprocess.run(
            command,
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_ANSWER_SECONDS,
        )
    except OSError as error:
        raise BadInput(
            f"ansible cannot be run to read the inventory ({error}): install ltxops[control]"
        ) from None
    except subprocess.TimeoutExpired:
        raise BadInput(
            f"the inventory could not be read within {_ANSWER_SECONDS} s: run `ansible all` with it"
        ) from None
    found = parse(done.stdout, project)
    if found:
        return found
    source = f"the inventory {inventory}" if inventory else "the inventory that ansible.cfg names"
    raise BadInput(f"no host matches {pattern!r} in {source}{_last_words(done.stderr)}")


def parse(output: str, project: Path) -> Inventory:
    """Read what `ansible -m debug` printed. A relative path of a key is one from `project`."""
    found: list[tuple[int, str, Target | BadInput]] = []
    for answer in _ANSWER.finditer(output):
        name, outcome = answer[1], answer[2]
        content, _ = json.JSONDecoder().raw_decode(output, answer.end())
        message = content.get("msg")
        if outcome != "SUCCESS":
            reason = " ".join(str(message).split())
            found.append((-1, name, BadInput(f"the variables of {name} cannot be read: {reason}")))
            continue
        values = json.loads(message) if isinstance(message, str) else message
        try:
            one: Target | BadInput = target(name, values, project)
        except BadInput as error:
            one = error
        found.append((values.get("order", 0), name, one))
    # The answers come as Ansible's processes end.
    return {name: one for _, name, one in sorted(found, key=lambda entry: entry[0])}


def target(name: str, values: dict[str, Any], project: Path = Path()) -> Target:
    """Make a target of a host's variables. Raises BadInput that names the host and the variable."""
    given = {key: value for key, value in values.items() if value not in (None, "")}
    connection = str(given.get("connection", "ssh")).removeprefix("ansible.builtin.")
    if connection not in (*_SSH, "local"):
        raise BadInput(
            f"{name}: ansible_connection is {connection!r}, and only ssh and local can be used here"
        )
    method = str(given.get("become_method", "sudo")).removeprefix("ansible.builtin.")
    if method != "sudo":
        raise BadInput(f"{name}: ansible_become_method is {method!r}, and only sudo can be used here")
    scope = str(given.get("scope", "host"))
    root = str(given.get("root", ""))
    if scope not in ("host", "user") or (scope == "user") != bool(root):
        raise BadInput(
            f"{name}: ltxops_scope is {scope!r} and ltxops_root is {root!r}: scope user needs ltxops_root, "
            "scope host must not have it"
        )
    key = given.get("key")
    return Target(
        name=name,
        address=str(given.get("address", name)),
        local=connection == "local",
        port=_port(name, given.get("port")),
        user=_text(given, "user"),
        password=_text(given, "password"),
        key=str(project / Path(str(key)).expanduser()) if key else None,
        ssh_args=" ".join(
            str(given[word]) for word in ("args", "common_args", "extra_args") if word in given
        ),
        become=_boolean(name, given["become"]) if "become" in given else None,
        become_user=str(given.get("become_user", "root")),
        become_password=_text(given, "become_password"),
        scope=scope,
        etc=str(given.get("etc", f"{root}/etc" if scope == "user" else "/etc/ltxops")),
        home=str(given.get("home", f"{root}/home" if scope == "user" else "/opt/ltxops")),
    )


def _question() -> str:
    """Return the template that gives a host's values as JSON."""
    entries = []
    for word, variables in _ASKED.items():
        value = "none"
        for variable in reversed(variables):
            value = f"({variable} | default({value}, true))"
        # `default(x, true)` would take a false value for none.
        entries.append(f"'{word}': " + (f"{variables[0]} | default(none)" if word == "become" else value))
    entries.append("'order': ansible_play_hosts_all.index(inventory_hostname)")
    return "{{ {" + ", ".join(entries) + "} | to_json }}"


def _ansible() -> str:
    beside = Path(sys.executable).with_name("ansible")
    return str(beside) if beside.exists() else "ansible"


def _absolute(inventory: str) -> str:
    """Return the inventory as it is called from another folder; a list such as `host1,` has no path."""
    path = Path(inventory).expanduser()
    return str(path.absolute()) if path.exists() or "," not in inventory else inventory


def _last_words(errors: str) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    telling = [
        line for line in lines if "ERROR" in line or "Unable to parse" in line or "Could not match" in line
    ]
    return f" ({re.sub(r'^.*?(?:WARNING|ERROR)[]!]*:? ?', '', telling[-1])})" if telling else ""


def _text(given: dict[str, Any], key: str) -> str | None:
    return str(given[key]) if key in given else None


def _port(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if not str(value).isdecimal() or not 0 < int(value) < 65536:
        raise BadInput(f"{name}: ansible_port is {value!r}: give a number from 1 to 65535")
    return int(value)


def _boolean(name: str, value: Any) -> bool:
    text = str(value).lower()
    if text in ("true", "yes", "on", "1"):
        return True
    if text in ("false", "no", "off", "0"):
        return False
    raise BadInput(f"{name}: ansible_become is {value!r}: give true or false")
