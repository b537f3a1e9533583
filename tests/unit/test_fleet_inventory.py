"""What an Ansible inventory says of a host, as the operator's tasks take it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from ltxops.errors import BadInput
from ltxops.fleet.inventory import Target, parse, read, target
from ltxops.fleet.selection import Selection, choose, lookup, only
from ltxops.fleet.ssh_options import settings

REPO = Path(__file__).parents[2]
PASSWORD = "pa'ss {{ word"


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Take away what the caller's environment says to Ansible."""
    for name in [name for name in os.environ if name.startswith(("ANSIBLE_", "LTXOPS_"))]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_templates_groups_patterns_and_order(tmp_path: Path, quiet: pytest.MonkeyPatch) -> None:
    inventory = tmp_path / "hosts.ini"
    inventory.write_text(
        "[gpus]\nzeta ansible_host=10.0.0.1\nalpha ansible_host=10.0.0.2 ansible_port=2222\n"
        "[spare]\nbeta\n[gpus:vars]\nltxops_scope=user\n"
        "ltxops_root='{{ inventory_dir }}/{{ inventory_hostname }}'\n"
    )
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all.yml").write_text(
        "ansible_user: \"{{ 'op' ~ 'erator' }}\"\nansible_become: false\n"
    )
    found = read(REPO, str(inventory), "all")
    assert list(found) == ["zeta", "alpha", "beta"]
    alpha, beta = found["alpha"], found["beta"]
    assert isinstance(alpha, Target)
    assert isinstance(beta, Target)
    assert (alpha.address, alpha.port, alpha.user, alpha.become) == ("10.0.0.2", 2222, "operator", False)
    assert (alpha.host_file, alpha.home) == (f"{tmp_path}/alpha/etc/host.json", f"{tmp_path}/alpha/home")
    assert (beta.address, beta.port, beta.host_file) == ("beta", None, "/etc/ltxops/host.json")
    assert list(read(REPO, str(inventory), "all:!gpus")) == ["beta"]


def test_passwords_are_used_and_shown_nowhere(tmp_path: Path, quiet: pytest.MonkeyPatch) -> None:  # R30
    """One is in a vault; and what would make Ansible write down its answers is set."""
    vault, log = tmp_path / "vault-password", tmp_path / "ansible.log"
    vault.write_text("open sesame")
    quiet.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(vault))
    encrypt = [str(Path(sys.executable).with_name("ansible-vault")), "encrypt_string", "--stdin-name"]
    encrypted = subprocess.run(
        [*encrypt, "ansible_become_password"], input=PASSWORD, capture_output=True, text=True, check=True
    ).stdout
    (tmp_path / "hosts.yml").write_text("all: {hosts: {gpu1: {ansible_connection: local}}}\n")
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all.yml").write_text(f'ansible_password: !unsafe "{PASSWORD}"\n{encrypted}')
    for name in ("FORCE_COLOR", "VERBOSITY", "NO_LOG"):
        quiet.setenv(f"ANSIBLE_{name}", "1")
    quiet.setenv("ANSIBLE_STDOUT_CALLBACK", "tree")
    quiet.setenv("ANSIBLE_LOG_PATH", str(log))
    one = read(REPO, str(tmp_path / "hosts.yml"), "gpu1")["gpu1"]
    assert isinstance(one, Target)
    assert (one.password, one.become_password) == (PASSWORD, PASSWORD)
    assert "pa'ss" not in repr(one)
    assert not log.exists() or "pa'ss" not in log.read_text()


def test_a_host_with_an_undefined_variable_is_named(tmp_path: Path, quiet: pytest.MonkeyPatch) -> None:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text("all: {hosts: {bad: {ansible_host: '{{ nowhere }}'}, good: {}}}\n")
    found = read(REPO, str(inventory), "all")
    assert isinstance(found["good"], Target)
    assert isinstance(found["bad"], BadInput)
    assert "the variables of bad cannot be read" in str(found["bad"])
    with pytest.raises(BadInput, match="nowhere"):
        choose(Selection(REPO, str(inventory)))
    assert [one.name for one in choose(Selection(REPO, str(inventory), hosts=["good"]))] == ["good"]


def test_the_inventory_of_the_environment_and_of_the_checkout(
    tmp_path: Path, quiet: pytest.MonkeyPatch
) -> None:
    quiet.chdir(tmp_path)
    (demo,) = choose(Selection(REPO))
    assert (demo.name, demo.local, demo.host_file) == ("demo-host", True, f"{REPO}/.demo/etc/host.json")
    (tmp_path / "mine.yml").write_text("all: {hosts: {one: {}, two: {}}}\n")
    quiet.setenv("LTXOPS_INVENTORY", "mine.yml")  # relative to where the operator stands
    assert [one.name for one in choose(Selection(REPO))] == ["one", "two"]
    assert only(choose(Selection(REPO, on="two")), "why").name == "two"
    with pytest.raises(BadInput, match="why: choose one of one, two with --on"):
        only(choose(Selection(REPO)), "why")


@pytest.mark.parametrize(("scope", "root"), [("host", ""), ("user", "/srv/ltx")])
def test_the_folders_are_those_of_role_ltxops(scope: str, root: str) -> None:
    defaults = yaml.safe_load((REPO / "roles/ltxops/defaults/main.yml").read_text())
    values: dict[str, Any] = {"ltxops_scope": scope, "ltxops_root": root}
    etc, home = (jinja2.Template(defaults[name]).render(values) for name in ("ltxops_etc_dir", "ltxops_home"))
    one = target("gpu1", {"scope": scope, "root": root})
    assert (one.etc, one.home) == (etc, home)
    assert defaults["ltxops_scope"] == target("gpu1", {}).scope
    moved = target("gpu1", {"scope": scope, "root": root, "etc": "/e", "home": "/h"})
    assert (moved.host_file, moved.home) == ("/e/host.json", "/h")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"connection": "docker"}, "ansible_connection is 'docker'"),
        ({"become_method": "doas"}, "ansible_become_method is 'doas'"),
        ({"port": "ssh"}, "ansible_port is 'ssh'"),
        ({"port": 70000}, "ansible_port is 70000"),
        ({"become": "perhaps"}, "ansible_become is 'perhaps'"),
        ({"scope": "user"}, "scope user needs ltxops_root"),
        ({"root": "/srv"}, "scope host must not have it"),
    ],
)
def test_what_cannot_be_used_is_named(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=r"^gpu1: ") as caught:
        target("gpu1", values)
    assert sentence in str(caught.value)


def test_a_relative_key_is_one_of_the_checkout(tmp_path: Path) -> None:
    assert target("a", {"key": "keys/id"}, tmp_path).key == f"{tmp_path}/keys/id"
    assert target("a", {"key": "/keys/id"}, tmp_path).key == "/keys/id"
    assert target("a", {"key": "~/id"}, tmp_path).key == str(Path("~/id").expanduser())


def test_answers_among_other_words_are_found() -> None:
    output = (
        '[WARNING]: nothing => {}\na | SUCCESS => {\n    "msg": "{\\"order\\": 1, \\"port\\": 22}"\n}\n'
        'b | FAILED! => {\n    "msg": "the field is undefined"\n}\n'
        'c | SUCCESS => {"changed": false, "msg": {"order": 0, "become": "yes"}}\n'
    )
    found = parse(output, Path("/"))
    assert list(found) == ["b", "c", "a"]
    assert isinstance(found["b"], BadInput)
    assert found["c"] == Target("c", "c", become=True)


def test_hosts_of_the_command_line() -> None:
    known: dict[str, Target | BadInput] = {"gpu1": Target("gpu1", "10.0.0.1", port=2222, user="op")}
    assert lookup(known, "gpu1") == known["gpu1"]
    assert lookup(known, "root@gpu1:22") == Target("gpu1", "10.0.0.1", port=22, user="root")
    assert lookup(known, "me@10.0.0.9") == Target("10.0.0.9", "10.0.0.9", user="me")
    assert lookup(known, "me@10.0.0.9:23") == Target("10.0.0.9:23", "10.0.0.9", user="me", port=23)
    assert lookup(known, "fe80::1") == Target("fe80::1", "fe80::1")
    assert isinstance(lookup(known, "gpu1:ssh"), BadInput)


def test_options_of_ssh(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("Host 10.0.*\n  User fromfile\n  IdentityFile /f/key\nHost *\n  Port 99\n")
    found = settings(
        "gpu1",
        f"-C -o ControlPersist=60s -oProxyCommand='ssh -W %h:%p bastion' -J a,b -i /k1 -o 'IdentityFile /k2' "
        f"-o Port=22 -p 23 -F {file}",
        "10.0.0.1",
    )
    expected = {
        "proxycommand": ["ssh -W %h:%p bastion"],
        "proxyjump": ["a,b"],
        "identityfile": ["/k1", "/k2"],
        "port": ["22"],
        "user": ["fromfile"],
    }
    assert {key: found[key] for key in expected} == expected
    for wrong in ("-o", "bastion", "'unfinished", "-F /nix/da"):
        with pytest.raises(BadInput, match=r"^gpu1: "):
            settings("gpu1", wrong, "10.0.0.1")
