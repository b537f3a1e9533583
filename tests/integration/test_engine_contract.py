"""Replays every recorded request of the real ComfyUI against a running engine and compares the answers.

Ids, times and the order of node errors are left out of the comparison, as the contract's README says.
"""

import asyncio
import json
import re
import struct
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.support import wait_for

from ltxops.embedded.comfyui.catalog import INPUT_FOLDERS, recorded
from ltxops.embedded.comfyui.options import Options, folders_under
from ltxops.embedded.comfyui.server import running

RECORDINGS: dict[str, Any] = json.loads(
    (files("ltxops.embedded") / "contract" / "http_and_ws.json").read_text()
)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PROMPTS = sorted(
    name
    for name, entry in RECORDINGS.items()
    if name.startswith("prompt_") and "json" in entry.get("request", {})
)
IDLE = [
    "view_missing",
    "view_traversal",
    "history_unknown",
    "interrupt_idle",
    "queue_idle",
    "queue_clear",
    "queue_delete",
    "free",
    "prompt_get",
]
UPLOADS = ["upload_image", "upload_image_same_name_other_bytes", "upload_image_traversal"]
#: Recordings that belong to a scenario below rather than to one request of their own.
SCENARIOS = {
    "system_stats",
    "prompt_not_json",
    "history_failed_at_model_load",
    "check_prompt",
    "check_ws_messages",
    "check_history",
    "check_view",
    "check_again_history",
    "queue_busy",
    "interrupt_running",
    "history_after_interrupt",
    "history_list_limited",
    "api_prefix_queue",
    "history_one_good_one_bad_branch",
    "view_range",
}

#: The job that is interrupted, and whose interruption is compared, renders longer here than any test waits.
LONG: dict[str, Any] = RECORDINGS["queue_busy"]["body"]["queue_running"][0][2]
for graph in (
    LONG,
    *(entry["prompt"][2] for entry in RECORDINGS["history_after_interrupt"]["body"].values()),
):
    graph["1"]["inputs"] |= {"width": 2048, "height": 2048, "batch_size": 4096}

Scenario = Callable[["Client"], Awaitable[None]]


class Client:
    """A client of one running engine."""

    def __init__(self, session: aiohttp.ClientSession, base: Path) -> None:
        self.session = session
        self.base = base

    async def replay(self, name: str, path: str = "", **kwargs: Any) -> dict[str, Any]:
        """Send a recorded request and return the answer in the shape of the recording."""
        request = RECORDINGS[name]["request"]
        if "json" in request:
            kwargs["json"] = request["json"]
        return await self.ask(request["method"], path or request["path"], **kwargs)

    async def ask(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        """Send a request and return status, type and body."""
        async with self.session.request(method, path, **kwargs) as response:
            body: Any = await response.read()
            content_type = response.headers.get("Content-Type") if body else None
            if content_type and "json" in content_type:
                body = json.loads(body)
            elif content_type is None or "text" in content_type:
                body = body.decode()
            return {"status": response.status, "content_type": content_type, "body": body}

    async def submit(self, graph: dict[str, Any], **more: Any) -> str:
        """Queue a graph and return its prompt id."""
        answer = await self.ask("POST", "/prompt", json={"prompt": graph, **more})
        assert answer["status"] == 200, answer
        return str(answer["body"]["prompt_id"])

    async def ended(self, prompt_id: str) -> dict[str, Any]:
        """Wait for a job to end and return its whole history answer."""
        for _ in range(1500):
            answer = await self.ask("GET", f"/history/{prompt_id}")
            if answer["body"]:
                return answer
            await asyncio.sleep(0.02)
        raise AssertionError(f"{prompt_id} did not end")

    async def runs(self, prompt_id: str) -> None:
        """Wait until a job is the running one."""
        for _ in range(500):
            body = (await self.ask("GET", "/queue"))["body"]
            if body["queue_running"] and body["queue_running"][0][1] == prompt_id:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{prompt_id} did not start")


def place_weights(base: Path) -> None:
    """Put tiny valid weights where the recorded file lists have theirs, and the picture of the recording."""
    empty = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    for node in recorded().values():
        for name, spec in node["input"].get("required", {}).items():
            if name not in INPUT_FOLDERS:
                continue
            choices = spec[0] if isinstance(spec[0], list) else spec[1]["options"]
            for choice in choices:
                path = base / "models" / INPUT_FOLDERS[name] / choice
                if path.suffix == ".safetensors":
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(struct.pack("<Q", len(empty)) + empty)
    (base / "input").mkdir(exist_ok=True)
    (base / "input" / "example.png").write_bytes(b"")


def against_engine(base: Path, scenario: Scenario) -> None:
    """Run a scenario against an engine of its own."""

    async def play() -> None:
        place_weights(base)
        async with running(Options("127.0.0.1", 0, folders_under(base))) as address:
            timeout = aiohttp.ClientTimeout(total=60)
            async with aiohttp.ClientSession(address, timeout=timeout) as session:
                await scenario(Client(session, base))

    asyncio.run(play())


def comparable(value: Any, key: str = "") -> Any:
    """Return an answer without what differs from run to run."""
    if isinstance(value, dict):
        return {comparable(name): comparable(item, name) for name, item in value.items()}
    if key == "traceback":
        assert value
        return "<traceback>"
    if isinstance(value, list):
        if len(value) == 5 and isinstance(value[1], str) and UUID.fullmatch(value[1]):
            value = [0, *value[1:]]  # a queue entry begins with its number
        return [comparable(item) for item in value]
    if key in {"timestamp", "create_time", "number"}:
        return 0
    return UUID.sub("<id>", value) if isinstance(value, str) else value


def expected(name: str) -> dict[str, Any]:
    """Return a recorded answer in comparable form."""
    entry = RECORDINGS[name]
    return {
        "status": entry["status"],
        "content_type": entry["content_type"],
        "body": comparable(entry["body"]),
    }


def assert_same(answer: dict[str, Any], name: str) -> None:
    """Hold an answer against the recorded one."""
    assert comparable(answer) == expected(name)


def test_every_recording_is_replayed() -> None:
    assert set(PROMPTS) | set(IDLE) | set(UPLOADS) | SCENARIOS == set(RECORDINGS)


@pytest.mark.parametrize("prefix", ["", "/api"])
@pytest.mark.parametrize("name", PROMPTS)
def test_prompt(name: str, prefix: str, tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        assert_same(await client.replay(name, prefix + RECORDINGS[name]["request"]["path"]), name)

    against_engine(tmp_path, scenario)


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_idle_requests(prefix: str, tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        for name in IDLE:
            assert_same(await client.replay(name, prefix + RECORDINGS[name]["request"]["path"]), name)

    against_engine(tmp_path, scenario)


def test_prompt_not_json(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        assert_same(await client.ask("POST", "/prompt", data=b"{not json"), "prompt_not_json")

    against_engine(tmp_path, scenario)


def test_object_info_is_the_recorded_one_with_the_same_files_in_place(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        answer = await client.ask("GET", "/object_info")
        assert answer["body"] == recorded()
        one = await client.ask("GET", "/api/object_info/SaveVideo")
        assert one["body"] == {"SaveVideo": recorded()["SaveVideo"]}
        assert (await client.ask("GET", "/object_info/NoSuchNode"))["body"] == {}

    against_engine(tmp_path, scenario)


def test_system_stats_has_the_recorded_shape_and_says_what_it_is(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        body = (await client.ask("GET", "/system_stats"))["body"]
        was = RECORDINGS["system_stats"]["body"]
        assert set(was["system"]) <= set(body["system"])
        assert set(was["devices"][0]) == set(body["devices"][0])
        assert body["embedded"] is True
        assert body["devices"][0]["name"] == "embedded engine (no GPU)"
        assert body["system"]["comfyui_version"] == was["system"]["comfyui_version"]

    against_engine(tmp_path, scenario)


def test_failure_at_load(tmp_path: Path) -> None:  # R36: the job fails with the reason, the next one works
    async def scenario(client: Client) -> None:
        weight = client.base / "models/checkpoints/ltx-2-19b-dev-fp8.safetensors"
        weight.write_bytes(weight.read_bytes()[:-5])
        graph = RECORDINGS["prompt_ok"]["request"]["json"]["prompt"]
        answer = await client.ended(await client.submit(graph, client_id="rec"))
        was = expected("history_failed_at_model_load")
        now = comparable(answer)
        for body in (was["body"], now["body"]):
            body["<id>"]["prompt"][2] = "<graph>"
            error = body["<id>"]["status"]["messages"][2][1]
            for name in ("exception_message", "exception_type", "current_inputs", "current_outputs"):
                assert error.pop(name) is not None
        assert now == was
        error = answer["body"].popitem()[1]["status"]["messages"][2][1]
        assert "ltx-2-19b-dev-fp8.safetensors" in error["exception_message"]

        check = RECORDINGS["check_prompt"]["request"]["json"]["prompt"]
        entry = (await client.ended(await client.submit(check)))["body"].popitem()[1]
        assert entry["status"]["status_str"] == "success"

    against_engine(tmp_path, scenario)


def test_a_good_run_its_messages_and_the_same_again_from_cache(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        async with client.session.ws_connect("/ws?clientId=rec1") as socket:
            answer = await client.replay("check_prompt")
            assert_same(answer, "check_prompt")
            heard: list[dict[str, Any]] = []
            while not heard or heard[-1]["data"].get("node", "") is not None:
                heard.append(await socket.receive_json(timeout=60))
        assert comparable(heard) == comparable(RECORDINGS["check_ws_messages"])

        prompt_id = answer["body"]["prompt_id"]
        assert_same(await client.ended(prompt_id), "check_history")
        movie = await client.replay("check_view")
        assert movie["status"] == 200
        assert movie["content_type"] == "video/mp4"
        assert movie["body"][4:8] == b"ftyp"

        again = (await client.replay("check_prompt"))["body"]["prompt_id"]
        assert_same(await client.ended(again), "check_again_history")
        assert sorted(path.name for path in (client.base / "output/video").iterdir()) == ["check_00001_.mp4"]

    against_engine(tmp_path, scenario)


def test_a_busy_queue_and_an_interruption(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        check = RECORDINGS["check_prompt"]["request"]["json"]["prompt"]
        await client.ended(await client.submit(check))
        busy = RECORDINGS["queue_busy"]["body"]
        long = await client.submit(LONG)
        short = await client.submit(busy["queue_pending"][0][2])
        await asyncio.to_thread(wait_for, lambda: list(client.base.glob("output/video/.*.part")))
        assert_same(await client.replay("queue_busy"), "queue_busy")
        assert_same(await client.replay("interrupt_running"), "interrupt_running")

        now, was = comparable(await client.ended(long)), expected("history_after_interrupt")
        for body in (now["body"], was["body"]):
            said = body["<id>"]["status"]["messages"][2][1]
            # Which node an interruption meets is chance.
            assert {said.pop("node_id"), said.pop("node_type")} & {"CreateVideo", "SaveVideo"}
            assert set(said.pop("executed")) >= {"1", "4"}
        assert now == was
        assert not list((client.base / "output/video").glob("*long*"))

        await client.ended(short)
        assert_same(await client.replay("history_list_limited"), "history_list_limited")

    against_engine(tmp_path, scenario)


def test_one_good_and_one_bad_branch(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        long = await client.submit(LONG)
        await client.runs(long)
        answer = await client.replay("prompt_one_good_one_bad_branch")
        queue = comparable(await client.replay("api_prefix_queue"))
        assert queue["body"]["queue_pending"] == expected("api_prefix_queue")["body"]["queue_running"]
        await client.ask("POST", "/interrupt", json={"prompt_id": long})
        name = "history_one_good_one_bad_branch"
        assert_same(await client.ended(answer["body"]["prompt_id"]), name)

        was = RECORDINGS["view_range"]
        async with client.session.get(was["request"]["path"], headers=was["request"]["headers"]) as part:
            assert part.status == was["status"]
            assert len(await part.read()) == 100
            for header in ("Content-Disposition", "Content-Type", "Content-Length", "Accept-Ranges"):
                assert part.headers[header] == was["headers"][header]
            assert re.fullmatch(r"bytes 0-99/\d+", part.headers["Content-Range"])

    against_engine(tmp_path, scenario)


def test_uploads(tmp_path: Path) -> None:
    def form(name: str, content: bytes) -> tuple[dict[str, str], bytes]:
        """Write the form by hand: a client library would change the file name."""
        head = f'--b\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
        return {"Content-Type": "multipart/form-data; boundary=b"}, head + content + b"\r\n--b--\r\n"

    async def scenario(client: Client) -> None:
        names = ["first.png", "first.png", "..%2F..%2Fevil.png"]
        for name, file_name, content in zip(UPLOADS, names, [b"one", b"two", b"three"], strict=True):
            headers, body = form(file_name, content)
            assert_same(await client.ask("POST", "/upload/image", headers=headers, data=body), name)
        headers, body = form("first.png", b"one")
        same = await client.ask("POST", "/upload/image", headers=headers, data=body)
        assert same["body"]["name"] == "first.png"
        headers, body = form("../../evil.png", b"four")
        assert (await client.ask("POST", "/upload/image", headers=headers, data=body))["status"] == 400
        stored = {path.name: path.read_bytes() for path in (client.base / "input").iterdir()}
        assert stored == {
            "example.png": b"",
            "first.png": b"one",
            "first (1).png": b"two",
            "..%2F..%2Fevil.png": b"three",
        }

    against_engine(tmp_path, scenario)
