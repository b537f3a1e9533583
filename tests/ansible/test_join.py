"""The join of a download that runs in the background: what it shows, and how it ends when that ends badly."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.fleet_support import descendants
from tests.integration.models_support import RunningHub
from tests.integration.pace import Pace, large_file
from tests.support import free_ports, wait_for

REPO = Path(__file__).parents[2]
LTXOPS = str(Path(sys.executable).parent / "ltxops")
SIZE = 64 * 1024 * 1024
SLOW = 500_000
FAST = 200_000_000
LORA = "loras/renamed.safetensors"
#: What a line shows: percent, size, rate; then the time left, if it is known; then the files.
LINE = r"^{host}: \d+ % of 64\.0 MiB, \d+(\.\d)? [KM]?i?B/s, (about \d+ (s|min) left, )?0 of 1 files$"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    large_file(tmp_path / "hub", "owner/lora/lora.safetensors", SIZE)
    with RunningHub(tmp_path) as running:
        # The role places a lock, so there is one; an empty one locks nothing.
        running.manifest_path.with_name("models.lock.yaml").write_text("version: 1\nmodels: {}\n")
        yield running


class Running:
    """A playbook that runs; `output` is what it has said so far."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.output = ""
        self._process = subprocess.Popen(
            command,
            cwd=REPO,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.output += line
        self._process.stdout.close()

    def wait_for(self, pattern: str) -> "re.Match[str]":
        """Return the first line that fits."""
        found: re.Match[str] = wait_for(
            lambda: re.search(pattern, self.output, re.MULTILINE), 240, lambda: self.output
        )
        return found

    def end(self) -> tuple[int, str]:
        """Wait for the end; return exit code and output."""
        code = self._process.wait(240)
        self._reader.join(10)
        return code, self.output


class Play:
    """The playbook of this test on local hosts, each with a folder of its own."""

    def __init__(self, folder: Path, hub: RunningHub) -> None:
        self.folder = folder
        self.hub = hub
        self.inventory = folder / "hosts.yml"

    def command(self, hosts: dict[str, dict[str, Any]], variables: dict[str, Any]) -> list[str]:
        common = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ltxops_scope": "user",
            "ltxops_root": f"{self.folder}/{{{{ inventory_hostname }}}}",
            "ansible_remote_tmp": f"{self.folder}/{{{{ inventory_hostname }}}}/tmp",
            "ansible_async_dir": f"{self.folder}/{{{{ inventory_hostname }}}}/async",
            "models_manifest": str(self.hub.manifest_path),
            "models_profile": "one",
            "models_hub": self.hub.url,
            "models_reserve": "0",
        }
        self.inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": common}}))
        playbook = str(Path(sys.executable).parent / "ansible-playbook")
        given = json.dumps({"_ltxops_cli": [LTXOPS], **variables})
        return [playbook, "-i", str(self.inventory), "tests/ansible/join.yml", "-e", given]

    def start(
        self, *options: str, hosts: Any = None, strategy: str = "linear", **variables: Any
    ) -> "Running":
        environment = {**os.environ, "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"), "JOIN_STRATEGY": strategy}
        command = [*self.command(hosts or {"one": {}}, variables), *options]
        return Running(command, environment)

    def run(self, *options: str, **settings: Any) -> tuple[int, str]:
        return self.start(*options, **settings).end()

    def progress(self, host: str = "one") -> dict[str, Any]:
        """Return what the progress file says, at most a second old; nothing before it is there."""
        try:
            found: dict[str, Any] = json.loads(
                (self.folder / host / "state/models-progress.json").read_text()
            )
        except FileNotFoundError:
            return {}
        return found

    def weight(self, host: str = "one") -> Path:
        return self.folder / host / "workspace/ComfyUI/models" / LORA


class Sshd:
    """An SSH server on a free port of 127.0.0.1, which lets root in with a key of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_ports(1)[0]
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("host_key", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        public = (folder / "host_key.pub").read_text()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self._port} {public}")
        # sshd takes no keys from a file that others may write to.
        (folder / "key.pub").chmod(0o600)

    @property
    def variables(self) -> dict[str, Any]:
        return {
            "ansible_connection": "ssh",
            "ansible_host": "127.0.0.1",
            "ansible_port": self._port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self._folder / "key"),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self._folder}/known_hosts",
            "ansible_control_path_dir": str(self._folder / "cp"),
        }

    def start(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        settings = [f"HostKey={self._folder}/host_key", f"AuthorizedKeysFile={self._folder}/key.pub"]
        settings += ["ListenAddress=127.0.0.1", "UsePAM=no", "StrictModes=no", "PidFile=none"]
        options = [word for setting in settings for word in ("-o", setting)]
        sshd = shutil.which("sshd") or "/usr/sbin/sshd"
        command = [sshd, "-D", "-e", "-f", "/dev/null", "-p", str(self._port), *options]
        with (self._folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self._listens)

    def stop(self) -> None:
        """Cut every connection, and let no new one in."""
        assert self._process
        for pid in (self._process.pid, *descendants(self._process.pid)):
            kill(pid)
        self._process.wait(60)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def loopback_sshd(folder: Path) -> Iterator[Sshd]:
    if os.geteuid() != 0:
        pytest.skip("an SSH server for this test needs root")
    server = Sshd(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def play(tmp_path: Path, hub: RunningHub) -> Iterator[Play]:
    yield Play(tmp_path, hub)
    for pid in processes_of(tmp_path):
        kill(pid)


def processes_of(folder: Path, word: str = "") -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and word in line and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def under_way(play: Play) -> bool:
    found = play.progress()
    return found.get("state") == "running" and found["bytes_done"] > SIZE // 50


def said(output: str) -> str:
    return " ".join(output.split())


def slow(play: Play) -> Pace:
    """Make the hub so slow that no download ends before the pace is changed."""
    pace = play.hub.fault = Pace(play.hub, 4_000_000)
    return pace


def downloading(play: Play, **settings: Any) -> Running:
    """Return a playbook that is joining a download which does not end by itself."""
    pace = slow(play)
    running = play.start(**settings)
    wait_for(lambda: under_way(play), 240, lambda: running.output)
    pace.bytes_per_second = SLOW
    running.wait_for(LINE.format(host="one"))
    return running


def test_each_host_has_lines_of_its_own_until_its_weights_are_there(play: Play) -> None:
    pace = slow(play)
    running = play.start(hosts={"one": {}, "two": {}}, strategy="free")
    for host in ("one", "two"):
        running.wait_for(LINE.format(host=host))
    pace.bytes_per_second = FAST
    code, output = running.end()
    assert code == 0, output
    for host in ("one", "two"):
        assert play.weight(host).stat().st_size == SIZE
        assert play.progress(host)["state"] == "done"
    again, output = play.run(hosts={"one": {}, "two": {}})
    assert (again, output.count("changed=0")) == (0, 2)
    # A line would mean that somebody waited.
    assert not re.search(r"^(one|two): ", output, re.MULTILINE)


def test_the_rerun_joins_the_download_that_a_lost_connection_left(play: Play) -> None:  # R48
    pace = slow(play)
    assert play.run(lost=True)[0] == 2
    wait_for(lambda: under_way(play))
    pace.bytes_per_second = SLOW
    first = play.progress()["pid"]
    running = play.start()
    # The second sync waits, and what is shown is the first one's.
    assert not running.wait_for(LINE.format(host="one"))[0].startswith("one: 0 %")
    assert play.progress()["pid"] == first
    pace.bytes_per_second = FAST
    code, output = running.end()
    assert code == 0, output
    assert play.weight().stat().st_size == SIZE
    # The first run brought all of it, and only then the second one looked.
    assert (play.progress()["pid"] != first, play.progress()["files_done"]) == (True, 0)


def test_a_dropped_connection_is_made_again_and_the_download_goes_on(play: Play) -> None:  # R48
    with loopback_sshd(play.folder) as sshd:
        running = downloading(play, hosts={"one": sshd.variables})
        first = play.progress()["pid"]
        sshd.stop()
        running.wait_for("^one: connection lost, trying again")
        sshd.start()
        assert isinstance(play.hub.fault, Pace)
        play.hub.fault.bytes_per_second = FAST
        code, output = running.end()
    assert code == 0, output
    assert play.progress()["pid"] == first
    assert play.weight().stat().st_size == SIZE


def test_a_failure_is_the_commands_own_sentence_and_exit_code(play: Play) -> None:
    source = play.hub.file("owner/lora/lora.safetensors")
    source.write_bytes(b"X" * SIZE)
    code, output = play.run()
    assert code == 2
    verdict = output.strip().splitlines()[-1]
    assert verdict.startswith("one: failed at 'models : Wait for the weights': loras/renamed.safetensors: ")
    assert verdict.endswith("[ltxops exit 3]")
    assert (play.progress()["state"], play.progress()["exit_code"]) == ("failed", 3)


def test_a_killed_sync_is_told_as_such(play: Play) -> None:
    running = downloading(play)
    os.kill(play.progress()["pid"], signal.SIGKILL)
    code, output = running.end()
    assert code == 2
    assert "was killed by signal 9" in said(output)
    assert output.strip().endswith("[ltxops exit 1]")


def test_a_job_that_is_gone_is_not_waited_for(play: Play) -> None:
    running = downloading(play)
    for pid in processes_of(play.folder, "async_wrapper"):
        kill(pid)
    code, output = running.end()
    assert code == 2
    verdict = said(output.strip().splitlines()[-1])
    assert "has ended without a result" in verdict and "% of 64.0 MiB" in verdict
    assert verdict.endswith("[ltxops exit 1]")


def test_the_deadline_ends_the_wait_and_says_how_far_it_came(play: Play) -> None:
    code, output = downloading(play, models_deadline_seconds=20).end()
    assert code == 2
    verdict = said(output.strip().splitlines()[-1])
    assert "not there after 20 s" in verdict and "% of 64.0 MiB" in verdict
    assert verdict.endswith("[ltxops exit 5]")


def test_check_mode_waits_for_nothing(play: Play) -> None:
    (play.folder / "one/etc").mkdir(parents=True)
    code, output = play.run("--check")
    assert code == 0, output
    assert not play.weight().exists()


def test_a_join_without_a_start_says_so(play: Play) -> None:
    code, output = play.run(begin=False)
    assert code == 2
    assert "nothing to wait for" in said(output) and output.strip().endswith("[ltxops exit 2]")
