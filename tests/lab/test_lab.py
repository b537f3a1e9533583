"""The lab itself: its hosts are as separate as machines, and nothing of them outlives it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.lab import processes, registry
from tests.lab.base import REPO
from tests.lab.lab import HUB_PORT, Lab, take_down
from tests.support import wait_for

#: Makes a lab of two hosts as a test does, and waits to be killed.
MAKER = """
import sys, time
from pathlib import Path
from tests.lab.lab import Lab
lab = Lab.make(Path(sys.argv[1]), held=True)
lab.add("one", workspace_mib=16).ssh("nohup sleep 3600 >/dev/null 2>&1 &")
lab.add("two")
print("up", flush=True)
time.sleep(3600)
"""


@pytest.fixture(scope="module")
def lab(new_lab: Callable[[], Lab]) -> Lab:
    lab = new_lab()
    lab.add("one")
    lab.add("two", workspace_mib=64, gpus=2)
    return lab


def names_left(entry: registry.Entry) -> list[str]:
    """What this machine still has that is named after a lab."""
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    loops = subprocess.run(["losetup", "--list"], capture_output=True, text=True, check=True).stdout
    name = f"ltxlab{entry.number}"
    left = [line for line in links.splitlines() if line.startswith((f"{name} ", f"{name}h"))]
    left += [line for line in tables.splitlines() if line.split()[-1] == name]
    left += [
        line for line in (loops + Path("/proc/mounts").read_text()).splitlines() if str(entry.folder) in line
    ]
    left += [f"pid {pid}" for pid in processes.naming(lambda word: f"{entry.folder}/" in word)]
    left += [str(path) for path in (entry.folder,) if path.exists()]
    return left + [str(one) for one in registry.entries() if one.folder == entry.folder]


def test_a_host_sees_itself_alone(lab: Lab) -> None:
    one = lab.hosts["one"]
    assert one.ssh("hostname").stdout.strip() == "one"
    assert one.ssh("cat /proc/1/cmdline").stdout.split("\0")[0] == "sh"
    pids = one.ssh("ls -d /proc/[0-9]*").stdout.split()
    assert len(pids) < 15
    mounts = {line.split()[1] for line in one.ssh("cat /proc/mounts").stdout.splitlines()}
    devices = {f"/dev/{name}" for name in ("full", "null", "pts", "random", "shm", "tty", "urandom", "zero")}
    assert mounts == {"/", "/dev", "/proc", "/run", *devices}
    assert one.ssh("ls /sys/class/net /proc/net/route >/dev/null; cat /proc/net/dev").stdout.count(":") == 2


def test_hosts_reach_each_other_the_hub_and_a_package_registry(lab: Lab) -> None:
    def connects(address: str, port: int) -> int:
        code = f"import socket; socket.create_connection(({address!r}, {port}), 30)"
        return lab.hosts["one"].ssh(f'python3 -c "{code}"').returncode

    assert (connects(lab.hosts["two"].address, 22), connects("hub.lab", HUB_PORT)) == (0, 0)
    updated = lab.hosts["one"].ssh("apt-get update -qq -o APT::Update::Error-Mode=any")
    assert updated.returncode == 0, updated.stderr


def test_a_host_has_the_disk_and_the_gpus_that_were_asked_for(lab: Lab) -> None:
    two = lab.hosts["two"]
    blocks, block_bytes = map(int, two.ssh("stat -f -c '%b %S' /workspace").stdout.split())
    assert 32 << 20 < blocks * block_bytes <= 64 << 20
    assert two.ssh("head -c 80M /dev/zero >/workspace/file").returncode != 0
    query = "nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader,nounits"
    assert two.ssh(query).stdout == "Lab GPU, 24564, 570.133.20\n" * 2


def test_a_host_keeps_its_files_and_loses_its_processes_in_a_power_cut(lab: Lab) -> None:
    one = lab.hosts["one"]
    one.ssh("echo kept >/etc/kept; echo gone >/run/gone; nohup sleep 4242 >/dev/null 2>&1 &")
    one.stop()
    assert one.ssh("true").returncode != 0
    one.start()
    assert one.ssh("cat /etc/kept; cat /run/gone").stdout == "kept\n"
    assert "4242" not in one.ssh("cat /proc/[0-9]*/cmdline").stdout.replace("cat", "")


def test_the_first_process_collects_what_others_leave(lab: Lab) -> None:
    one = lab.hosts["one"]
    # Each of these is left to the first process by its parent, and ends.
    pids = one.ssh("for i in 1 2 3 4 5; do (sleep 0.2 >/dev/null 2>&1 & echo $!); done").stdout.split()
    assert len(pids) == 5
    wait_for(lambda: not one.ssh(f"ls -d {' '.join(f'/proc/{pid}' for pid in pids)}").stdout)


def test_after_a_crash_of_its_maker_everything_is_found_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    command = [sys.executable, "-c", MAKER, str(folder)]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout
        assert maker.stdout.readline() == "up\n"
        os.kill(maker.pid, signal.SIGKILL)
    entry = next(one for one in registry.entries() if one.folder == folder)
    assert entry.abandoned
    assert len(names_left(entry)) > 5
    take_down(entry)
    assert names_left(entry) == []


def test_an_operator_gets_hosts_an_inventory_and_a_clean_machine(tmp_path: Path) -> None:
    environment = {**os.environ, "LTXOPS_LAB_DIR": str(tmp_path / "lab")}

    def call(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "tests.lab", *words]
        return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)

    assert call("inventory").returncode == 1
    assert call("up", "1").returncode == 0
    assert call("up", "2").stdout.count("ssh -i") == 2
    hosts = yaml.safe_load(call("inventory").stdout)["ltx_hosts"]["hosts"]
    assert sorted(hosts) == ["lab-1", "lab-2"]
    entry = next(one for one in registry.entries() if one.folder == tmp_path / "lab")
    access = hosts["lab-2"]
    ssh = ["ssh", "-i", access["ansible_ssh_private_key_file"], *access["ansible_ssh_common_args"].split()]
    login = [*ssh, f"{access['ansible_user']}@{access['ansible_host']}", "sudo hostname"]
    assert subprocess.run(login, capture_output=True, text=True).stdout == "lab-2\n"
    assert call("down").returncode == 0
    assert names_left(entry) == []


def test_who_is_not_root_is_told(tmp_path: Path) -> None:
    nobody = ["setpriv", "--reuid", "65534", "--clear-groups", sys.executable, "-m", "tests.lab", "up", "1"]
    refused = subprocess.run(nobody, cwd=REPO, capture_output=True, text=True)
    assert (refused.returncode, "needs root" in refused.stderr) == (1, True)
