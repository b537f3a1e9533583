"""scripts/onstart.sh: a container with Python only provisions itself, and sees when nothing is to be done."""

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.integration.bare_host import REPO, BareHost, bare_host
from tests.integration.demo_host import free_ports
from tests.integration.test_over_ssh import NAMES, hub

__all__ = ["hub"]
TOKEN = "the-Token.of_a~template+1/2="
STORAGE = {
    "S3_ACCESS_KEY_ID": "key",
    "S3_SECRET_ACCESS_KEY": "it's$ecret;%s",
    "S3_BUCKET_NAME": "videos",
    "S3_ENDPOINT_URL": "https://s3.example.com",
}
LOG = "/workspace/logs/onstart.log"


class Container:
    """A bare host with a checkout in it, and the environment a template would give."""

    def __init__(self, host: BareHost, hub_url: str) -> None:
        self.host = host
        self.environment = {
            "HF_ENDPOINT": hub_url,
            "LTXOPS_SETTINGS": "/root/settings.yml",
            "LTXOPS_TOKEN": TOKEN,
        }
        ports = "".join(f"{name}: {port}\n" for name, port in zip(NAMES, free_ports(3), strict=True))
        (host.files / "root/settings.yml").write_text(
            "comfyui_engine: embedded\npreflight_gpu_required: false\npreflight_min_ram_gib: 1\n"
            "models_manifest: /root/ltxops/inventory/demo/models.yaml\nmodels_reserve: 64MiB\n" + ports
        )

    def unpack(self, archive: Path, folder: str) -> None:
        """Put the files of a tar archive into a folder of the host."""
        unpack = ["ssh", "-q", "-i", str(self.host.key), "-p", str(self.host.port), "-o",
                  f"UserKnownHostsFile={self.host.known_hosts}", "root@127.0.0.1",
                  f"mkdir -p {folder} && tar -xf - -C {folder}"]  # fmt: skip
        with archive.open("rb") as stream:
            subprocess.run(unpack, stdin=stream, check=True)

    def start(self, **environment: str) -> "subprocess.CompletedProcess[str]":
        given = " ".join(
            f"{name}={shlex.quote(value)}" for name, value in {**self.environment, **environment}.items()
        )
        return self.host.ssh(f"{given} /root/ltxops/scripts/onstart.sh", timeout=900)

    def log_ends_with(self) -> str:
        return self.host.ssh(f"tail -n 1 {LOG}").stdout.strip()

    def programs(self) -> str:
        return self.host.ssh("supervisorctl status").stdout


@contextmanager
def checked_out(folder: Path, hub: str) -> Iterator[Container]:
    with bare_host(folder) as host:
        # Through the running host: what lies below an overlay must not be changed while it is mounted.
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        files = subprocess.run(listed, cwd=REPO, capture_output=True, check=True).stdout
        archive = folder / "checkout.tar"
        subprocess.run(["tar", "-cf", archive, "--null", "-T", "-"], cwd=REPO, input=files, check=True)
        container = Container(host, hub)
        container.unpack(archive, "/root/ltxops")
        yield container


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory, hub: str) -> Iterator[Container]:
    with checked_out(tmp_path_factory.mktemp("onstart"), hub) as container:
        yield container


def test_what_cannot_be_provisioned_ends_with_the_reason_and_runs_nothing(container: Container) -> None:
    refused = container.start(LTXOPS_PROFILE="vsat")
    assert refused.returncode == 2
    assert "did you mean 'vast'" in container.log_ends_with()
    unreachable = container.start(HF_ENDPOINT="http://127.0.0.1:1")
    assert unreachable.returncode == 5
    assert "http://127.0.0.1:1" in container.log_ends_with()
    assert "RUNNING" not in container.programs()


def test_the_first_start_provisions_and_proves(container: Container) -> None:
    started = container.start(**STORAGE)
    assert started.returncode == 0, started.stdout[-3000:]
    assert "provisioned and proven" in container.log_ends_with()
    assert container.programs().count("RUNNING") == 5


def test_the_token_of_the_template_opens_the_gateway(container: Container) -> None:
    assert container.host.ssh("cat /etc/ltxops/token").stdout.strip() == TOKEN


def test_the_environment_reaches_the_wrapper_and_no_log(container: Container) -> None:  # R29 R30
    pid = container.host.ssh("supervisorctl pid wrapper").stdout.strip()
    environment = container.host.ssh(f"tr '\\0' '\\n' < /proc/{pid}/environ").stdout
    assert "S3_SECRET_ACCESS_KEY=it's$ecret;%s" in environment
    for secret in ("ecret;%s", TOKEN):
        assert container.host.ssh(f"grep -rlF '{secret}' /workspace/logs /var/log /tmp").stdout == ""


def test_the_next_start_finds_nothing_to_do(container: Container) -> None:
    before = container.programs().split()[3]
    again = container.start(**STORAGE)
    assert again.returncode == 0
    assert "nothing to do" in container.log_ends_with()
    assert "PLAY" not in again.stdout
    assert container.programs().split()[3] == before


def test_after_the_container_was_stopped_the_programs_are_started_again(container: Container) -> None:
    container.host.ssh(
        "supervisorctl shutdown"
    )  # which is not waited for: it refuses calls until it has ended
    again = container.start(**STORAGE)
    assert (again.returncode, "PLAY" in again.stdout) == (0, False), again.stdout[-3000:]
    assert container.programs().count("RUNNING") == 5
    pid = container.host.ssh("supervisorctl pid comfyui").stdout.strip()
    assert "S3_" not in container.host.ssh(f"tr '\\0' '\\n' < /proc/{pid}/environ").stdout  # R30


def test_a_damaged_weight_is_found_and_fetched_again(container: Container) -> None:
    weight = "/workspace/ComfyUI/models/checkpoints/ltx-2-19b-dev-fp8.safetensors"
    container.host.ssh(f"truncate -s 10 {weight}")
    again = container.start(**STORAGE)
    assert (again.returncode, "PLAY" in again.stdout) == (0, True)
    assert int(container.host.ssh(f"stat -c %s {weight}").stdout) > 10


def test_a_changed_setting_is_taken_up(container: Container) -> None:
    again = container.start(**{**STORAGE, "S3_BUCKET_NAME": "another"})
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


def older_python() -> Path | None:
    """Return the installation of a Python 3.10 on this machine, as pyenv keeps them, or None."""
    return next(iter(sorted(Path.home().glob(".pyenv/versions/3.10.*"))), None)


@pytest.mark.skipif(older_python() is None, reason="there is no Python 3.10 under ~/.pyenv/versions")
def test_an_image_with_python_3_10_provisions_itself_and_then_has_nothing_to_do(
    tmp_path: Path, hub: str
) -> None:
    with checked_out(tmp_path, hub) as container:
        # As in the images that are built with a Python of their own in /usr/local, before Debian's in PATH.
        version = older_python()
        assert version
        libraries = [str(path.relative_to(version)) for path in version.glob("lib/libpython3.10.so*")]
        archive = tmp_path / "python.tar"
        left_out = ["--exclude=test", "--exclude=site-packages"]
        tar = ["tar", "-C", str(version), *left_out, "-cf", str(archive), "bin/python3.10", "lib/python3.10"]
        subprocess.run([*tar, *libraries], check=True)
        container.unpack(archive, "/usr/local")
        container.host.ssh("mkdir /usr/local/lib/python3.10/site-packages")
        container.host.ssh("ln -s python3.10 /usr/local/bin/python3; ldconfig")
        assert container.host.ssh("python3 --version").stdout.startswith("Python 3.10.")
        first = container.start()
        assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-2000:]
        ansible = container.host.ssh("/opt/ltxops/control/bin/ansible --version").stdout
        assert ansible.startswith("ansible [core 2.17.")
        again = container.start()
        assert (again.returncode, "nothing to do" in again.stdout) == (0, True)
