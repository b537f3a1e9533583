"""The pyworker role's refusals, and the certificate it has signed."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).parents[2]
PLATFORM = {"CONTAINER_ID": 12, "PUBLIC_IPADDR": "192.0.2.1", "VAST_TCP_PORT_3000": "40000"}


def play(folder: Path, part: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    settings = {
        "part": part,
        "ltxops_scope": "user",
        "ltxops_root": str(folder),
        "ansible_remote_tmp": str(folder / "tmp"),
        "ansible_python_interpreter": sys.executable,
        "wrapper_port": 18288,
        "pyworker_environment": PLATFORM,
        **variables,
    }
    command = [
        str(Path(sys.executable).parent / "ansible-playbook"),
        "-i",
        "localhost,",
        "tests/ansible/pyworker.yml",
        "-e",
        json.dumps(settings),
    ]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(REPO / "ansible.cfg")}
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=120)


def test_what_the_platform_says_is_enough(tmp_path: Path) -> None:
    assert play(tmp_path, "check").returncode == 0


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"pyworker_environment": {**PLATFORM, "HF_TOKEN": "hush\nhush"}}, "a value with a line break"),
        ({"pyworker_environment": {**PLATFORM, "BAD-NAME": "hush"}}, "BAD-NAME"),
        ({"pyworker_environment": {**PLATFORM, "MODEL_LOG": "/hush"}}, "the role sets itself"),
        ({"pyworker_environment": {}}, "CONTAINER_ID, PUBLIC_IPADDR, VAST_TCP_PORT_3000"),
        ({"pyworker_environment": {**PLATFORM, "CONTAINER_ID": "hush"}}, "CONTAINER_ID is a number"),
        ({"pyworker_port": 3100}, "VAST_TCP_PORT_3100"),
        ({"pyworker_use_ssl": True}, "use scope host"),
        ({"wrapper_port": 19999}, "wrapper_port is 19999"),
    ],
)
def test_what_the_worker_cannot_run_with_is_refused(  # R29
    tmp_path: Path, variables: dict[str, Any], said: str
) -> None:
    refused = play(tmp_path, "check", **variables)
    assert refused.returncode == 2
    text = " ".join(refused.stdout.split())
    assert said in text
    assert "[ltxops exit 2]" in text
    assert "hush" not in text


def container_variables(**environment: str) -> dict[str, Any]:
    names = ["enabled", "repo", "version", "port", "report_address", "use_ssl", "environment"]
    wanted = ", ".join(f"'{name}': pyworker_{name}" for name in names)
    command = [str(Path(sys.executable).parent / "ansible"), "-i", "inventory/container", "all", "-o"]
    command += ["-m", "debug", "-a", "msg={{ {" + wanted + "} | to_json }}"]
    settings = {**os.environ, "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"), **environment}
    shown = subprocess.run(command, cwd=REPO, env=settings, capture_output=True, text=True, check=True)
    message = json.loads(shown.stdout.partition(" => ")[2])["msg"]
    found: dict[str, Any] = message if isinstance(message, dict) else json.loads(message)
    return found


def test_a_container_takes_the_platforms_variables_up_by_name() -> None:
    given = {"MASTER_TOKEN": "m%; '$x", "REPORT_ADDR": "http://report", "USE_SSL": "false", "HF_TOKEN": "hf"}
    given |= {"CONTAINER_ID": "12", "PUBLIC_IPADDR": "192.0.2.1", "VAST_TCP_PORT_3100": "40000"}
    found = container_variables(SERVERLESS="true", WORKER_PORT="3100", PYWORKER_REPO="https://x/y", **given)
    assert (found["enabled"], found["use_ssl"], str(found["port"])) == (True, False, "3100")
    assert (found["repo"], found["version"]) == ("https://x/y", "HEAD")
    assert found["report_address"] == "http://report"
    names = ("CONTAINER_ID", "PUBLIC_IPADDR", "VAST_TCP_PORT_3100", "HF_TOKEN", "MASTER_TOKEN")
    assert {name: str(value) for name, value in found["environment"].items()} == {
        name: given[name] for name in names
    }


def test_a_container_without_them_is_no_worker_and_pinned() -> None:
    found, defaults = (
        container_variables(),
        yaml.safe_load((REPO / "roles/pyworker/defaults/main.yml").read_text()),
    )
    assert found["enabled"] is False
    for name in ("repo", "version", "report_address"):
        assert found[name] == defaults[f"pyworker_{name}"]


def openssl(command: str) -> str:
    return subprocess.run(["openssl", *command.split()], capture_output=True, text=True, check=True).stdout


@contextmanager
def signer(folder: Path, wrong_key: bool = False) -> Iterator[tuple[str, list[str]]]:
    """The platform's signing service: gives its URL, and the paths that it was asked for."""
    folder.mkdir()
    openssl(f"req -x509 -newkey rsa:2048 -nodes -subj /CN=ca -keyout {folder}/ca.key -out {folder}/ca.crt")
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            (folder / "csr").write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
            by = f"-CA {folder}/ca.crt -CAkey {folder}/ca.key -CAcreateserial"
            openssl(f"x509 -req -in {folder}/csr {by} -out {folder}/crt")
            body = (folder / ("ca.crt" if wrong_key else "crt")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/sign_cert/", asked
    finally:
        server.shutdown()
        server.server_close()


def test_the_certificate_is_signed_once_and_belongs_to_the_key(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    with signer(tmp_path / "signer") as (url, asked):
        settings = {"pyworker_certificate_url": url, "_pyworker_certificate_dir": str(etc)}
        signed = play(tmp_path, "certificate", **settings)
        assert signed.returncode == 0, signed.stdout
        assert asked == ["/sign_cert/?instance_id=12"]
        public = openssl(f"x509 -in {etc}/instance.crt -noout -pubkey")
        assert public == openssl(f"pkey -in {etc}/instance.key -pubout")
        assert (etc / "instance.key").stat().st_mode & 0o777 == 0o640
        assert sorted(path.name for path in etc.iterdir()) == ["instance.crt", "instance.csr", "instance.key"]
        again = play(tmp_path, "certificate", **settings)
        assert again.returncode == 0
        assert "changed=0" in again.stdout
        assert len(asked) == 1


def test_an_answer_that_is_no_certificate_of_the_key_is_not_taken(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    with signer(tmp_path / "signer", wrong_key=True) as (url, _):
        refused = play(
            tmp_path, "certificate", pyworker_certificate_url=url, _pyworker_certificate_dir=str(etc)
        )
    assert refused.returncode == 2
    assert "is no certificate of this host's key" in refused.stdout
    assert not (etc / "instance.crt").exists()
