"""Named tokens of a running gateway: made, listed, rotated without a gap, and revoked."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from tests.ansible.gateway_support import TOKEN, Gateway, render, running_gateway
from tests.support import wait_for

LTXOPS = str(Path(sys.executable).parent / "ltxops")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("tok"), gateway_requests_per_second=1000) as running:
        yield running


def token(gateway: Gateway, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [LTXOPS, "token", *words, "--directory", str(gateway.folder / "etc")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def status(gateway: Gateway, value: str) -> int:
    return gateway.request("GET", "/queue", headers={"Authorization": f"Bearer {value}"})[0]


def new(gateway: Gateway, name: str) -> str:
    made = token(gateway, "new", "--name", name, "--show")
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def test_a_new_token_is_valid_at_once_beside_the_others(gateway: Gateway) -> None:
    value = new(gateway, "farm")
    assert len(value) == 43
    assert (status(gateway, value), status(gateway, TOKEN), status(gateway, value.swapcase())) == (
        200,
        200,
        401,
    )
    wait_for(lambda: ("farm", 200) in {(it["token"], it["status"]) for it in gateway.logged()})
    path = gateway.folder / "etc/tokens/farm"
    assert (path.read_text().strip(), path.stat().st_mode & 0o777) == (value, 0o600)
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_without_show_a_token_is_printed_nowhere(gateway: Gateway) -> None:  # R30
    made = token(gateway, "new", "--name", "quiet", "--json")
    value = (gateway.folder / "etc/tokens/quiet").read_text().strip()
    listed = token(gateway, "list"), token(gateway, "list", "--json")
    said = "".join(done.stdout + done.stderr for done in (made, *listed))
    assert value not in said
    assert TOKEN not in said
    entries = {entry["name"]: entry for entry in json.loads(listed[1].stdout)["tokens"]}
    assert set(entries) >= {"host", "quiet"}
    assert (entries["quiet"]["age_days"], entries["quiet"]["bits"] > 128) == (0.0, True)


def test_a_rotation_has_no_gap(gateway: Gateway) -> None:
    old = new(gateway, "old")
    answers: list[int] = []
    current, done = [old], threading.Event()

    def client() -> None:
        while not done.is_set():
            answers.append(status(gateway, current[0]))

    caller = threading.Thread(target=client)
    caller.start()
    try:
        current[0] = new(gateway, "young")
        before = len(answers)
        while len(answers) < before + 20:
            assert caller.is_alive()
            assert status(gateway, old) == 200
    finally:
        done.set()
        caller.join()
    assert token(gateway, "revoke", "--name", "old").returncode == 0
    assert set(answers) == {200}
    assert (status(gateway, old), status(gateway, current[0])) == (401, 200)


def test_a_new_token_leaves_open_connections_alone_and_a_revocation_ends_them(gateway: Gateway) -> None:
    async def talk() -> None:
        headers = {"Authorization": f"Bearer {new(gateway, 'leaver')}"}
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{gateway.url}/ws", headers=headers) as ws,
        ):
            new(gateway, "newcomer")
            await ws.send_str("still here")
            assert await ws.receive_str(timeout=60) == "echo still here"
            assert token(gateway, "revoke", "--name", "leaver").returncode == 0
            assert (await ws.receive(timeout=60)).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE)

    asyncio.run(talk())
    assert status(gateway, TOKEN) == 200


FARM, WEB, YOUNG = "Farm-Token_0123456789", "Web-Token_0123456789", "Young-Token_0123456789"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("given")
    with running_gateway(folder, gateway_tokens={"farm": FARM, "web": WEB}) as running:
        yield running


def play(gateway: Gateway, *arguments: str, **tokens: str) -> "subprocess.CompletedProcess[str]":
    return render(gateway.folder, *arguments, gateway_tokens=tokens, **gateway.ports)


def test_tokens_of_the_inventory_come_and_go_with_it(given: Gateway) -> None:  # R30
    made = new(given, "made-here")
    assert [status(given, value) for value in (TOKEN, FARM, made, WEB)] == [200, 200, 200, 200]
    wait_for(lambda: ("web", 200) in {(it["token"], it["status"]) for it in given.logged()})
    files = [*(given.folder / "etc/given-tokens").iterdir()]
    assert {(path.name, path.stat().st_mode & 0o777) for path in files} == {("farm", 0o600), ("web", 0o600)}
    assert files[0].parent.stat().st_mode & 0o777 == 0o700
    tried = play(given, "--check", "--diff", farm=FARM, young=YOUNG)
    assert tried.returncode == 0
    assert (status(given, WEB), status(given, YOUNG)) == (200, 401)
    moved = asyncio.run(move(given))
    assert moved.returncode == 0, moved.stdout
    assert [status(given, value) for value in (TOKEN, FARM, WEB, made, YOUNG)] == [200, 200, 401, 200, 200]
    said = tried.stdout + tried.stderr + moved.stdout + moved.stderr
    assert [value for value in (TOKEN, FARM, WEB, YOUNG) if value in said] == []
    again = play(given, farm=FARM, young=YOUNG)
    assert (again.returncode, "changed=0" in again.stdout) == (0, True), again.stdout


async def move(given: Gateway) -> "subprocess.CompletedProcess[str]":
    """Take one token out of the inventory and another one in; what the first has opened must end."""
    headers = {"Authorization": f"Bearer {WEB}"}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{given.url}/ws", headers=headers) as ws,
    ):
        done = play(given, "-vvv", "--diff", farm=FARM, young=YOUNG)
        assert (await ws.receive(timeout=60)).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE)
        return done


def test_a_token_of_the_inventory_is_revoked_on_the_host_at_once(given: Gateway) -> None:
    assert token(given, "new", "--name", "farm").returncode == 2
    revoked = token(given, "revoke", "--name", "farm")
    assert revoked.returncode == 0
    assert "take it out of gateway_tokens, too" in revoked.stdout
    assert (status(given, FARM), status(given, TOKEN)) == (401, 200)


def test_a_name_of_the_inventory_that_was_made_on_the_host_is_refused(given: Gateway) -> None:
    new(given, "taken")
    before = (given.folder / "etc/gateway/tokens.conf").read_bytes()
    refused = play(given, taken=WEB, other=YOUNG)
    assert refused.returncode != 0
    assert "taken is in gateway_tokens and was made on the host, too" in refused.stdout
    assert "[ltxops exit 2]" in refused.stdout
    assert WEB not in refused.stdout
    assert (given.folder / "etc/gateway/tokens.conf").read_bytes() == before
    assert not (given.folder / "etc/given-tokens/other").exists()


def test_the_hosts_own_token_is_replaced_when_it_is_revoked(tmp_path: Path) -> None:
    with running_gateway(tmp_path) as gateway:
        assert token(gateway, "revoke", "--name", "host").returncode == 0
        value = (tmp_path / "etc/token").read_text().strip()
        assert value != TOKEN
        assert (status(gateway, value), status(gateway, TOKEN)) == (200, 401)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("new", "--name", "host"), "already"),
        (("new", "--name", "../x"), "1 to 32"),
        (("new", "--name", "Über"), "1 to 32"),
        (("revoke", "--name", "nobody"), "there is no token 'nobody'"),
    ],
)
def test_a_wrong_name_is_refused_and_changes_nothing(
    gateway: Gateway, words: tuple[str, ...], said: str
) -> None:
    refused = token(gateway, *words)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert status(gateway, TOKEN) == 200


def test_a_broken_token_file_is_named_and_the_running_tokens_stay(gateway: Gateway) -> None:  # R3 R35
    broken = gateway.folder / "etc/tokens/broken"
    broken.parent.mkdir(mode=0o700, exist_ok=True)
    broken.write_text("short-secret\n")
    refused = token(gateway, "apply")
    broken.unlink()
    assert refused.returncode == 2
    assert "tokens/broken holds 12 characters" in refused.stderr
    assert "short-secret" not in refused.stderr
    assert status(gateway, TOKEN) == 200


def test_nginx_that_takes_no_configuration_is_said_so_and_goes_on(gateway: Gateway) -> None:  # R35
    conf = gateway.folder / "etc/gateway/nginx.conf"
    good = conf.read_text()
    conf.write_text(good.replace("merge_slashes on;", "merge_slashes broken;"))
    failed = token(gateway, "new", "--name", "late")
    conf.write_text(good)
    late = (gateway.folder / "etc/tokens/late").read_text().strip()
    assert failed.returncode == 1
    assert "goes on with the old ones" in " ".join(failed.stderr.split())
    assert (status(gateway, TOKEN), status(gateway, late)) == (200, 401)
    assert token(gateway, "apply").returncode == 0
    assert status(gateway, late) == 200


def test_it_needs_a_host_with_a_gateway(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "nowhere"):
        command = [LTXOPS, "token", "new", "--name", "x", "--directory", str(directory)]
        assert subprocess.run(command, capture_output=True, timeout=60).returncode == 2
    assert list(tmp_path.iterdir()) == []
