"""Scope host over SSH: a bare host with sshd and Python only becomes a guarded video host."""

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.bare_host import REPO, BareHost, add_operator, bare_host
from tests.integration.demo_host import LTXOPS, changed_tasks, free_ports, last_line

WEBHOOK_SECRET = "whsec_bm90IGEgc2VjcmV0IGJ1dCBsb25nIGVub3VnaA=="
NAMES = ("gateway_port", "wrapper_port", "comfyui_port")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_ports(1)[0]
    manifest, root = REPO / "inventory/demo/models.yaml", tmp_path_factory.mktemp("hub")
    command = [
        LTXOPS,
        "embedded",
        "hub",
        "--manifest",
        str(manifest),
        "--root",
        str(root),
        "--port",
        str(port),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert "http://" in process.stdout.readline()
        yield f"http://127.0.0.1:{port}"
        process.terminate()


class Fleet:
    """One bare host in an inventory, and how the playbook is run against it."""

    def __init__(self, host: BareHost, hub: str) -> None:
        self.host = host
        self.ports = dict(zip(NAMES, free_ports(3), strict=True))
        self.settings: dict[str, Any] = {
            **self.ports,
            "comfyui_engine": "embedded",
            "preflight_gpu_required": False,
            "preflight_min_ram_gib": 1,
            "models_manifest": str(REPO / "inventory/demo/models.yaml"),
            "models_profile": "vast",
            "models_hub": hub,
            "models_reserve": "64MiB",
        }
        self.environment: dict[str, str] = {}
        # The example of an inventory as README says: copied, and the hosts named.
        folder = shutil.copytree(REPO / "inventory/example", host.folder / "inventory")
        self.inventory = folder / "hosts.yml"
        (folder / "host_vars/gpu-02.yml").unlink()
        self.name_hosts({"gpu-01": host.access})
        self.vault_password = host.folder / "vault-password"
        self.vault_password.write_text("a password\n")
        vault = folder / "group_vars/ltx_hosts/vault.yml"
        # The example's storage is at an address that nobody has, so no job could deliver there.
        secrets = yaml.safe_load((folder / "vault/vault.example.yml").read_text())
        secrets["vault_wrapper_environment"] = {"WEBHOOK_SECRET": WEBHOOK_SECRET}
        vault.write_text(yaml.safe_dump(secrets))
        vault_tool = str(REPO / ".venv/bin/ansible-vault")
        encrypt = [vault_tool, "encrypt", "--vault-password-file", str(self.vault_password), str(vault)]
        subprocess.run(encrypt, check=True, capture_output=True)

    def name_hosts(self, hosts: dict[str, dict[str, Any]]) -> None:
        self.inventory.write_text(yaml.safe_dump({"ltx_hosts": {"hosts": hosts}}))

    def provision(self, *arguments: str, **settings: Any) -> "subprocess.CompletedProcess[str]":
        given = json.dumps({**self.settings, **settings})
        command = [
            str(REPO / ".venv/bin/ansible-playbook"),
            "-i",
            str(self.inventory),
            "--vault-password-file",
            str(self.vault_password),
            "provision.yml",
            "-e",
            given,
            *arguments,
        ]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"), **self.environment}
        return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, hub: str) -> Iterator[Fleet]:
    with bare_host(tmp_path_factory.mktemp("ssh")) as host:
        add_operator(host)
        yield Fleet(host, hub)


def written_to(host: BareHost) -> dict[str, str]:
    """What lies on top of the base file system, without what sshd and sudo note of a login."""
    found = {}
    for path in host.files.rglob("*"):
        name = path.relative_to(host.files).as_posix()
        # /tmp itself shows up once something was in it.
        if not name.startswith(("var/log", "var/lib/sudo")) and name != "tmp":
            plain = path.is_file() and not path.is_symlink()
            found[name] = hashlib.sha1(path.read_bytes()).hexdigest() if plain else "no plain file"
    return found


def test_a_check_of_a_bare_host_tells_what_would_change_and_writes_nothing(fleet: Fleet) -> None:  # R47
    before = written_to(fleet.host)
    check = fleet.provision("--check", "--diff")
    assert check.returncode == 0, check.stdout[-3000:]
    assert changed_tasks(check.stdout) > 5
    for shown in ("+# Starts the API wrapper.", "/etc/ltxops (new folder)", "+[program:comfyui]"):
        assert shown in check.stdout, shown
    assert written_to(fleet.host) == before


def test_a_role_alone_on_a_bare_host_says_what_it_needs(fleet: Fleet) -> None:
    before = written_to(fleet.host)
    alone = fleet.provision("--tags", "gateway,smoke")
    assert alone.returncode == 2
    assert "run provision.yml without --tags" in last_line(alone.stdout)
    assert written_to(fleet.host) == before


@pytest.fixture(scope="module")
def provisioned(fleet: Fleet) -> Fleet:
    first = fleet.provision()
    assert first.returncode == 0, first.stdout[-3000:]
    return fleet


def test_a_bare_host_gets_to_a_passed_smoke_generation(provisioned: Fleet) -> None:
    report = provisioned.host.ssh("cat /var/lib/ltxops/smoke/proof/report.json").stdout
    passed = {case["case"]: case["ok"] for case in json.loads(report)["cases"]}
    assert passed == {"check": True, "two-stage": True}


def test_the_second_run_changes_nothing(provisioned: Fleet) -> None:  # R47
    second = provisioned.provision()
    assert (second.returncode, changed_tasks(second.stdout)) == (0, 0)


@pytest.mark.parametrize("tag", ["base", "gateway", "cleanup", "supervisor"])
def test_a_role_runs_alone_by_its_tag(provisioned: Fleet, tag: str) -> None:
    alone = provisioned.provision("--tags", tag)
    assert (alone.returncode, changed_tasks(alone.stdout)) == (0, 0), alone.stdout[-2000:]


def test_what_the_vault_holds_reaches_the_wrapper(provisioned: Fleet) -> None:
    pid = provisioned.host.ssh("supervisorctl pid wrapper").stdout.strip()
    environment = provisioned.host.ssh(f"tr '\\0' '\\n' < /proc/{pid}/environ").stdout
    assert f"WEBHOOK_SECRET={WEBHOOK_SECRET}" in environment


def test_each_program_runs_as_its_own_user(provisioned: Fleet) -> None:  # R13
    lines = provisioned.host.ssh("ps axo user:12,args").stdout.splitlines()
    owner = {words[1]: words[0] for line in lines if len(words := line.split(None, 1)) == 2}
    users = {
        program: next(user for command, user in owner.items() if program in command)
        for program in ("embedded comfyui", "wrapper serve", "nginx: worker")
    }
    assert users == {"embedded comfyui": "comfy", "wrapper serve": "ltxops", "nginx: worker": "www-data"}


def test_comfyui_can_read_no_secret_and_change_no_weight(provisioned: Fleet) -> None:
    def as_comfy(command: str) -> int:
        return provisioned.host.ssh(f"runuser -u comfy -- {command}").returncode

    assert as_comfy("true") == 0
    for path in ("/etc/ltxops/token", "/etc/ltxops/gateway/tokens.conf", "/etc/ltxops/wrapper.env"):
        assert as_comfy(f"cat {path}") != 0, path
    assert as_comfy("touch /workspace/ComfyUI/models/checkpoints/x.safetensors") != 0


def test_a_generation_through_gateway_and_wrapper_is_linked_not_copied(provisioned: Fleet) -> None:
    workflow = json.loads((REPO / "workflows/check.json").read_text())
    body = json.dumps({"input": {"request_id": "over-ssh", "workflow_json": workflow}})
    token = provisioned.host.ssh("cat /etc/ltxops/token").stdout.strip()
    url = f"http://127.0.0.1:{provisioned.ports['gateway_port']}/generate/sync"
    headers = ["-H", f"Authorization: Bearer {token}", "-H", "Content-Type: application/json"]
    curl = subprocess.run(
        ["curl", "-sS", *headers, "-d", body, url], capture_output=True, text=True, timeout=120
    )
    answer = json.loads(curl.stdout)
    assert answer["status"] == "completed", answer
    path = answer["output"][0]["local_path"]
    assert provisioned.host.ssh(f"stat -c '%h %U' {path}").stdout.split() == ["2", "comfy"]


def test_secrets_show_up_in_no_output_of_the_playbook(provisioned: Fleet) -> None:  # R30
    token = "another-Token-of-the-operator.1"
    changed = provisioned.provision(
        "-vvv", "--diff", gateway_token=token, models_hub_token="hub-secret-0123456789"
    )
    assert changed.returncode == 0
    assert token not in changed.stdout + changed.stderr
    assert "hub-secret-0123456789" not in changed.stdout + changed.stderr
    assert provisioned.host.ssh("cat /etc/ltxops/token").stdout.strip() == token
    listing = provisioned.host.ssh(
        "ps axww; grep -rl hub-secret /etc/ltxops /workspace/logs /var/lib/ltxops"
    ).stdout
    assert token not in listing
    assert listing.split()[-1] == "/etc/ltxops/models/hub-token"


def test_a_host_that_cannot_be_reached_is_named_and_the_others_finish(provisioned: Fleet) -> None:  # R49
    lonely = {**provisioned.host.access, "ansible_port": free_ports(1)[0]}
    provisioned.name_hosts({"gpu-01": provisioned.host.access, "gpu-02": lonely})
    run = provisioned.provision(gateway_token="another-Token-of-the-operator.1")
    provisioned.name_hosts({"gpu-01": provisioned.host.access})
    assert run.returncode == 4
    assert "gpu-01                     : ok=" in run.stdout
    assert last_line(run.stdout).startswith("gpu-02: unreachable")
    assert "Connection refused" in last_line(run.stdout)


def test_a_changed_host_key_is_refused(provisioned: Fleet) -> None:
    known = provisioned.host.known_hosts
    before = known.read_text()
    other = Path(provisioned.host.folder / "key.pub").read_text()
    known.write_text(f"[127.0.0.1]:{provisioned.host.port} {other}")
    # Ansible keeps connections open for a minute; this one has to be made anew.
    provisioned.environment = {"ANSIBLE_SSH_ARGS": "-o ControlMaster=no -o ControlPath=none"}
    refused = provisioned.provision()
    provisioned.environment = {}
    known.write_text(before)
    assert refused.returncode == 4
    assert "Host key verification failed" in last_line(refused.stdout)


def test_a_running_cron_daemon_takes_over_from_the_janitor(provisioned: Fleet) -> None:  # R46
    installed = provisioned.host.ssh("apt-get update -qq && apt-get install -qq -y cron && cron", timeout=300)
    assert installed.returncode == 0, installed.stderr
    moved = provisioned.provision(cleanup_interval_minutes=1, gateway_token="another-Token-of-the-operator.1")
    assert moved.returncode == 0, moved.stdout[-3000:]
    assert "janitor" not in provisioned.host.ssh("supervisorctl status").stdout
    before = provisioned.host.ssh("grep -c 'clean pressure' /workspace/logs/cleanup.log").stdout
    log = ""
    for _ in range(100):
        log = provisioned.host.ssh("cat /workspace/logs/cleanup.log").stdout
        if log.count("clean pressure") > int(before or 0):
            break
        time.sleep(1)
    assert "clean pressure /workspace/ComfyUI/output" in log.splitlines()[-1]
    assert log.count("clean pressure") > int(before or 0)
    entries = provisioned.host.ssh("cat /etc/cron.d/ltxops; ls /etc/cron.d /opt/ltxops/bin").stdout
    assert "clean pressure --config /etc/ltxops/janitor.yaml" in entries
    assert "ltxops-proof" not in entries
    assert "janitor.sh" not in entries
    report = json.loads(provisioned.host.ssh("cat /var/lib/ltxops/cleanup/pressure.json").stdout)
    assert (report["ok"], report["by"]) == (True, "command")


def test_the_janitor_takes_over_from_cron(provisioned: Fleet) -> None:  # R46
    moved = provisioned.provision(
        cleanup_scheduler="janitor", gateway_token="another-Token-of-the-operator.1"
    )
    assert moved.returncode == 0, moved.stdout[-3000:]
    assert provisioned.host.ssh("ls /etc/cron.d").stdout.split().count("ltxops") == 0
    assert "RUNNING" in provisioned.host.ssh("supervisorctl status janitor").stdout
    report = json.loads(provisioned.host.ssh("cat /var/lib/ltxops/cleanup/pressure.json").stdout)
    assert (report["ok"], report["by"]) == (True, "janitor")
