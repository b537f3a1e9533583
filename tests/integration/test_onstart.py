"""scripts/onstart.sh: a container with Python only provisions itself, and sees when nothing is to be done."""

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.bare_host import REPO, BareHost, bare_host
from tests.integration.demo_host import free_ports
from tests.integration.test_over_ssh import NAMES, hub

__all__ = ["hub"]
LOG = "/workspace/logs/onstart.log"


class Container:
    """A bare host with a checkout in it, and the environment a template would give."""

    def __init__(self, host: BareHost, hub_url: str) -> None:
        self.host = host
        self.environment = {"HF_ENDPOINT": hub_url, "LTXOPS_SETTINGS": "/root/settings.yml"}
        ports = "".join(f"{name}: {port}\n" for name, port in zip(NAMES, free_ports(3), strict=True))
        (host.files / "root/settings.yml").write_text(
            "comfyui_engine: embedded\npreflight_gpu_required: false\npreflight_min_ram_gib: 1\n"
            "models_manifest: /root/ltxops/inventory/demo/models.yaml\nmodels_reserve: 64MiB\n" + ports
        )

    def start(self, **environment: str) -> "subprocess.CompletedProcess[str]":
        given = " ".join(
            f"{name}={shlex.quote(value)}" for name, value in {**self.environment, **environment}.items()
        )
        return self.host.ssh(f"{given} /root/ltxops/scripts/onstart.sh", timeout=900)

    def log_ends_with(self) -> str:
        return self.host.ssh(f"tail -n 1 {LOG}").stdout.strip()

    def programs(self) -> str:
        return self.host.ssh("supervisorctl status").stdout


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory, hub: str) -> Iterator[Container]:
    folder = tmp_path_factory.mktemp("onstart")
    with bare_host(folder) as host:
        # Through the running host: what lies below an overlay must not be changed while it is mounted.
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        files = subprocess.run(listed, cwd=REPO, capture_output=True, check=True).stdout
        archive = folder / "checkout.tar"
        subprocess.run(["tar", "-cf", archive, "--null", "-T", "-"], cwd=REPO, input=files, check=True)
        unpack = ["ssh", "-q", "-i", str(host.key), "-p", str(host.port), "-o",
                  f"UserKnownHostsFile={host.known_hosts}", "root@127.0.0.1",
                  "mkdir -p /root/ltxops && tar -xf - -C /root/ltxops"]  # fmt: skip
        with archive.open("rb") as stream:
            subprocess.run(unpack, stdin=stream, check=True)
        yield Container(host, hub)


def test_what_cannot_be_provisioned_ends_with_the_reason_and_runs_nothing(container: Container) -> None:
    refused = container.start(LTXOPS_PROFILE="vsat")
    assert refused.returncode == 2
    assert "did you mean 'vast'" in container.log_ends_with()
    unreachable = container.start(HF_ENDPOINT="http://127.0.0.1:1")
    assert unreachable.returncode == 5
    assert "http://127.0.0.1:1" in container.log_ends_with()
    assert "RUNNING" not in container.programs()


def test_the_first_start_provisions_and_proves(container: Container) -> None:
    started = container.start(S3_BUCKET_NAME="a bucket", S3_SECRET_ACCESS_KEY="it's $ecret;%s")
    assert started.returncode == 0, started.stdout[-3000:]
    assert "provisioned and proven" in container.log_ends_with()
    assert container.programs().count("RUNNING") == 4


def test_the_environment_reaches_the_wrapper_and_no_log(container: Container) -> None:  # R29 R30
    pid = container.host.ssh("supervisorctl pid wrapper").stdout.strip()
    environment = container.host.ssh(f"tr '\\0' '\\n' < /proc/{pid}/environ").stdout
    assert "S3_SECRET_ACCESS_KEY=it's $ecret;%s" in environment
    assert container.host.ssh("grep -rl 'ecret;%s' /workspace/logs /var/log").stdout == ""


def test_the_next_start_finds_nothing_to_do(container: Container) -> None:
    before = container.programs().split()[3]
    again = container.start(S3_BUCKET_NAME="a bucket", S3_SECRET_ACCESS_KEY="it's $ecret;%s")
    assert again.returncode == 0
    assert "nothing to do" in container.log_ends_with()
    assert "PLAY" not in again.stdout
    assert container.programs().split()[3] == before


def test_after_the_container_was_stopped_the_programs_are_started_again(container: Container) -> None:
    container.host.ssh("supervisorctl shutdown; while supervisorctl pid; do sleep 0.1; done")
    assert "RUNNING" not in container.programs()
    again = container.start(S3_BUCKET_NAME="a bucket", S3_SECRET_ACCESS_KEY="it's $ecret;%s")
    assert (again.returncode, "PLAY" in again.stdout) == (0, False)
    assert container.programs().count("RUNNING") == 4


def test_a_damaged_weight_is_found_and_fetched_again(container: Container) -> None:
    weight = "/workspace/ComfyUI/models/checkpoints/ltx-2-19b-dev-fp8.safetensors"
    container.host.ssh(f"truncate -s 10 {weight}")
    again = container.start(S3_BUCKET_NAME="a bucket", S3_SECRET_ACCESS_KEY="it's $ecret;%s")
    assert (again.returncode, "PLAY" in again.stdout) == (0, True)
    assert int(container.host.ssh(f"stat -c %s {weight}").stdout) > 10


def test_a_changed_setting_is_taken_up(container: Container) -> None:
    again = container.start(S3_BUCKET_NAME="another")
    assert (again.returncode, "PLAY" in again.stdout) == (0, True)
    pid = container.host.ssh("supervisorctl pid wrapper").stdout.strip()
    assert "S3_BUCKET_NAME=another" in container.host.ssh(f"tr '\\0' '\\n' < /proc/{pid}/environ").stdout


def test_two_starts_at_once_do_not_disturb_each_other(container: Container) -> None:
    holder = Path("/var/lib/ltxops/onstart.lock")
    busy = container.host.ssh(
        f"flock {holder} env LTXOPS_SETTINGS=/root/settings.yml /root/ltxops/scripts/onstart.sh"
    )
    assert busy.returncode == 6
    assert "another run" in busy.stdout + busy.stderr
