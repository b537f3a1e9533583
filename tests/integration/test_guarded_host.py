"""Scope host under guard: what attackers get, who runs as whom, and what the doctor says of it."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.ansible.gateway_support import COMFYUI_ROUTES, WRAPPER_ROUTES
from tests.integration.bare_host import add_operator, bare_host
from tests.integration.outside import Door, listening, scan
from tests.integration.test_over_ssh import Fleet, hub
from tests.support import wait_for

__all__ = ["hub"]
LTXOPS = "/opt/ltxops/venv/bin/ltxops"
DOCTOR = f"{LTXOPS} doctor --json"
LOG = "/workspace/logs/gateway.log"
#: Listens for everybody, and says so.
LISTENER = """
import socket, time
server = socket.create_server(("0.0.0.0", 0))
print("open", flush=True)
time.sleep(600)
"""


class Guarded(Fleet):
    """A provisioned host."""

    def doctor(self) -> dict[str, str]:
        """The checks that are not ok, and what they say."""
        result = json.loads(self.host.ssh(DOCTOR).stdout)
        assert len(result["checks"]) >= 15
        wrong = {check["name"]: check["detail"] for check in result["checks"] if not check["ok"]}
        # The host shares this machine's network, and cannot see who else listens there.
        faults = wrong.pop("sockets", "").split("; ")
        mine = [fault for fault in faults if fault and "a process that cannot be seen" not in fault]
        return wrong | ({"sockets": "; ".join(mine)} if mine else {})

    @property
    def door(self) -> Door:
        return Door(self.ports["gateway_port"], self.host.ssh("cat /etc/ltxops/token").stdout.strip())

    def logged(self) -> list[dict[str, Any]]:
        """The gateway's access log."""
        lines = self.host.ssh(f"cat {LOG}").stdout.splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, hub: str) -> Iterator[Guarded]:
    with bare_host(tmp_path_factory.mktemp("host")) as host:
        add_operator(host)
        fleet = Guarded(host, hub)
        first = fleet.provision()
        assert first.returncode == 0, first.stdout[-3000:]
        yield fleet


def test_the_doctor_finds_nothing(guarded: Guarded) -> None:
    assert guarded.doctor() == {}


def test_nothing_reaches_a_program_without_the_token(guarded: Guarded) -> None:  # R1 R2 R5 R6
    door, before = guarded.door, len(guarded.logged())
    routes = [*COMFYUI_ROUTES, *((method, f"/api{path}") for method, path in COMFYUI_ROUTES), *WRAPPER_ROUTES]
    for value in ("", "Bearer wrong-wrong-wrong-1", f"Bearer {door.token.swapcase()}", door.token):
        for method, path in routes:
            status, _, body = door.request(method, path, {"Authorization": value} if value else {})
            assert (status, json.loads(body)) == (401, {"error": "Unauthorized"}), (method, path, value)
    two = f"Authorization: Bearer no\nAuthorization: Bearer {door.token}\n"
    targets = ["//prompt", "/%61pi/prompt", "/x/..%2fprompt", "/API/prompt", "/./prompt", "http://x/prompt"]
    for target in targets:
        for header in ("Host: x\n", "Host:\n", f"Host: x\n{two}"):
            answer = door.raw(f"GET {target} HTTP/1.1\n{header}Connection: close\n\n")
            assert answer.split()[1] in (b"400", b"401"), (target, header)
    # nginx writes an entry after the answer.
    wait_for(lambda: len(guarded.logged()) >= before + 4 * len(routes))
    assert {entry["backend"] for entry in guarded.logged()[before:]} == {""}


@pytest.mark.parametrize("path", ["/ws", "/api/ws"])
def test_a_websocket_needs_the_token(guarded: Guarded, path: str) -> None:  # R4
    door = guarded.door
    url = f"http://127.0.0.1:{door.port}{path}?clientId=guarded"

    async def first_message(headers: dict[str, str]) -> dict[str, Any]:
        async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=headers) as ws:
            message: dict[str, Any] = await ws.receive_json(timeout=30)
            return message

    with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
        asyncio.run(first_message({}))
    assert asyncio.run(first_message(door.good))["type"] == "status"


def test_a_token_opens_no_way_to_install_code(guarded: Guarded) -> None:  # R9
    door = guarded.door
    for path in ("manager/reboot", "customnode/install", "snapshot/save", "internal/logs", "userdata/x.json"):
        for prefix in ("/", "/api/", "/v2/", "/api/v2/"):
            assert door.request("POST", prefix + path, door.good)[0] == 403, prefix + path


def test_an_uploaded_drawing_is_saved_and_not_shown(guarded: Guarded, tmp_path: Path) -> None:  # R10
    drawing = tmp_path / "guarded.svg"
    drawing.write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    door = guarded.door
    assert door.upload(drawing)["name"] == "guarded.svg"
    for prefix in ("", "/api"):
        path = f"{prefix}/view?filename=guarded.svg&type=input"
        status, headers, body = door.request(
            "GET", path, {**door.good, "Origin": f"http://127.0.0.1:{door.port}"}
        )
        assert (status, body) == (200, drawing.read_bytes())
        assert headers["content-disposition"].startswith("attachment")
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


def test_an_upload_that_is_too_large_leaves_nothing(guarded: Guarded) -> None:  # R14
    door = guarded.door
    before = guarded.host.ssh("ls -A /workspace/ComfyUI/input /var/lib/ltxops/gateway/*").stdout
    answer = door.raw(
        f"POST /upload/image HTTP/1.1\nHost: x\nAuthorization: Bearer {door.token}\n"
        f"Content-Type: multipart/form-data; boundary=b\nContent-Length: {600 * 2**20}\n"
        "Connection: close\n\n--b"
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == b"413"
    assert "512 MiB" in json.loads(body)["error"]
    assert guarded.host.ssh("ls -A /workspace/ComfyUI/input /var/lib/ltxops/gateway/*").stdout == before


def test_a_program_that_is_down_is_told_in_json_and_no_log_keeps_a_secret(guarded: Guarded) -> None:  # R7 R14
    guarded.host.ssh("supervisorctl stop wrapper")
    door = guarded.door
    status, _, body = door.request("GET", "/health?token=SECRET-IN-QUERY", door.good)
    guarded.host.ssh("supervisorctl start wrapper")
    assert (status, "does not answer" in json.loads(body)["error"]) == (502, True)
    found = guarded.host.ssh("grep -rl SECRET-IN-QUERY /workspace/logs /var/log")
    assert (found.stdout, found.returncode) == ("", 1)
    assert guarded.host.ssh(f"{LTXOPS} services wait --config /etc/ltxops/host.json").returncode == 0


def test_a_stop_ends_every_process_of_a_program(guarded: Guarded) -> None:  # R31
    assert guarded.host.ssh("ps -o pid= -u comfy").stdout.split()
    guarded.host.ssh("supervisorctl stop comfyui")
    left = guarded.host.ssh("ps -o pid=,args= -u comfy").stdout
    guarded.host.ssh("supervisorctl start comfyui")
    assert left == ""
    assert guarded.host.ssh(f"{LTXOPS} services wait --config /etc/ltxops/host.json").returncode == 0


def test_a_scan_from_outside_sees_one_port(guarded: Guarded) -> None:  # R11
    everybody, ours = listening(guarded.host.ssh("readlink /proc/self/ns/pid").stdout.strip())
    assert {*guarded.ports.values(), guarded.host.port} <= ours
    assert scan(everybody) & ours == {guarded.ports["gateway_port"]}


def test_another_open_port_is_found_with_its_process(guarded: Guarded) -> None:  # R11
    pid = guarded.host.ssh(
        f"nohup python3 -c '{LISTENER}' >/tmp/listener 2>&1 & echo $!;"
        " until grep -q open /tmp/listener; do sleep 0.1; done"
    ).stdout.strip()
    found = guarded.doctor()
    guarded.host.ssh(f"kill {pid}")
    assert f"python3 (pid {pid})" in found["sockets"]


def test_without_the_kernels_table_the_check_fails(guarded: Guarded) -> None:  # R11
    line = f"unshare --mount sh -c 'mount -t tmpfs none /proc && {DOCTOR}'"
    result = json.loads(guarded.host.ssh(line).stdout)
    wrong = {check["name"]: check["detail"] for check in result["checks"] if not check["ok"]}
    assert "could not run" in wrong["sockets"]


def test_comfyui_can_gain_no_privileges_and_reach_no_secret(guarded: Guarded) -> None:  # R13
    pid = guarded.host.ssh("supervisorctl pid comfyui").stdout.strip()
    status = dict(
        line.split(":\t", 1)
        for line in guarded.host.ssh(f"cat /proc/{pid}/status").stdout.splitlines()
        if ":\t" in line
    )
    assert (status["NoNewPrivs"], status["CapEff"].strip("0"), status["Umask"]) == ("1", "", "0007")
    environment = guarded.host.ssh(f"tr '\\0' '\\n' < /proc/{pid}/environ").stdout
    assert "S3_" not in environment
    for path in (
        "/etc/ltxops/token",
        "/etc/ltxops/wrapper.env",
        "/var/lib/ltxops/wrapper",
        "/run/supervisor.sock",
    ):
        read = guarded.host.ssh(f"runuser -u comfy -- test -r {path}")
        assert read.returncode != 0, path


def test_a_weight_that_comfyui_may_write_is_found(guarded: Guarded) -> None:
    guarded.host.ssh("chmod g+w /workspace/ComfyUI/models/checkpoints")
    found = guarded.doctor()
    guarded.host.ssh("chmod g-w /workspace/ComfyUI/models/checkpoints")
    assert "comfy may change /workspace/ComfyUI/models/checkpoints" in found["privileges"]


@pytest.mark.parametrize(
    "settings",
    [
        {"comfyui_flags": ["--listen", "0.0.0.0"]},
        {"comfyui_flags": ["--enable-cors-header"]},
        {"ltxops_comfyui_user": "root"},
    ],
)
def test_what_would_open_the_host_is_refused(guarded: Guarded, settings: dict[str, Any]) -> None:  # R13
    refused = guarded.provision("--tags", "preflight", **settings)
    assert refused.returncode == 2
    assert "preflight_accepted_risks" in refused.stdout
    assert "[ltxops exit 2]" in refused.stdout


def test_a_version_with_holes_is_warned_of_and_refused_where_strict(guarded: Guarded) -> None:  # R12
    old = {"comfyui_engine": "git", "comfyui_version": "v0.27.0", "comfyui_nodes": []}
    warned = guarded.provision("--tags", "preflight", **old)
    assert "CVE-2026-56670" in warned.stdout + warned.stderr
    strict = guarded.provision("--tags", "preflight", **old, preflight_strict=True)
    assert strict.returncode == 2
    assert "CVE-2026-56670" in strict.stdout.rsplit("PLAY RECAP", 1)[1]


def test_a_token_is_made_and_revoked_on_the_host(guarded: Guarded) -> None:
    value = guarded.host.ssh(f"{LTXOPS} token new --name client --show").stdout.strip()

    def status() -> int:
        door = Door(guarded.ports["gateway_port"], value)
        return door.request("GET", "/queue", door.good)[0]

    assert status() == 200
    assert guarded.host.ssh("runuser -u comfy -- cat /etc/ltxops/tokens/client").returncode != 0
    assert guarded.host.ssh(f"{LTXOPS} token revoke --name client").returncode == 0
    assert status() == 401
