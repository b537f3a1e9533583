"""The embedded engine as a service: its command line, queue, files and sockets over HTTP."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.support import wait_for

from ltxops.embedded.comfyui.options import Options, folders_under
from ltxops.embedded.comfyui.server import running

Graph = dict[str, dict[str, Any]]
LTXOPS = [sys.executable, "-m", "ltxops.cli.main", "embedded", "comfyui"]


@asynccontextmanager
async def engine(base: Path, seconds_per_step: float = 0.0) -> AsyncIterator[aiohttp.ClientSession]:
    """Run an engine and give a client of it."""
    options = Options("127.0.0.1", 0, folders_under(base), seconds_per_step)
    timeout = aiohttp.ClientTimeout(total=60)
    async with running(options) as address, aiohttp.ClientSession(address, timeout=timeout) as session:
        yield session


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """Run the command itself; gives the process, its address and what it printed until then."""
    command = [*LTXOPS, "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as started:
        try:
            assert started.stdout is not None
            lines: list[str] = []
            for line in started.stdout:
                lines.append(line.strip())
                if "http://" in line:
                    break
            yield started, lines[-1].split()[-1], lines
        finally:
            started.kill()


def stills(frames: int, prefix: str = "v/x", size: int = 64) -> Graph:
    """Return a graph without weights."""
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": size, "height": size, "batch_size": frames, "color": 1},
        },
        "2": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 24}},
        "3": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["2", 0], "filename_prefix": prefix, "format": "mp4", "codec": "auto"},
        },
    }


def sampling(steps: int, seed: int = 1) -> Graph:
    """Return a graph that samples, with one weight: see place_model."""
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0},
        },
        "2": {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}},
        "3": {"class_type": "VAEEncode", "inputs": {"pixels": ["1", 0], "vae": ["2", 0]}},
        "4": {"class_type": "LotusConditioning", "inputs": {}},
        "5": {
            "class_type": "UNETLoader",
            "inputs": {"unet_name": "m.safetensors", "weight_dtype": "default"},
        },
        "6": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["5", 0],
                "seed": seed,
                "steps": steps,
                "cfg": 1.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "positive": ["4", 0],
                "negative": ["4", 0],
                "latent_image": ["3", 0],
                "denoise": 1.0,
            },
        },
        "7": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": ["2", 0]}},
        "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "s"}},
    }


def place_model(base: Path) -> None:
    path = base / "models/diffusion_models/m.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes((2).to_bytes(8, "little") + b"{}")


async def submit(session: aiohttp.ClientSession, graph: Graph, **more: Any) -> str:
    async with session.post("/prompt", json={"prompt": graph, **more}) as response:
        body = await response.json()
        assert response.status == 200, body
        return str(body["prompt_id"])


async def get(session: aiohttp.ClientSession, path: str) -> Any:
    async with session.get(path) as response:
        assert response.status == 200, path
        return await response.json()


async def ended(session: aiohttp.ClientSession, prompt_id: str) -> dict[str, Any]:
    for _ in range(1500):
        history = await get(session, f"/history/{prompt_id}")
        if history:
            entry: dict[str, Any] = history[prompt_id]
            return entry
        await asyncio.sleep(0.02)
    raise AssertionError(f"{prompt_id} did not end")


async def started(session: aiohttp.ClientSession, prompt_id: str) -> None:
    for _ in range(500):
        queue = await get(session, "/queue")
        if [entry[1] for entry in queue["queue_running"]] == [prompt_id]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{prompt_id} did not start")


def test_the_command_says_what_it_is_and_stops_in_mid_render(tmp_path: Path) -> None:
    flags = ["--base-directory", str(tmp_path), "--cpu", "--disable-auto-launch", "--preview-method", "none"]
    with process(*flags, "--output-directory", str(tmp_path / "elsewhere")) as (engine, address, lines):
        assert "not LTX-2" in lines[0]
        assert "no GPU" in lines[0]

        async def begin() -> Any:
            async with aiohttp.ClientSession(address) as session, session.ws_connect("/ws") as ws:
                await ended(session, await submit(session, stills(1, "/BACKENDS_READY")))
                await submit(session, stills(4096, size=2048))
                await asyncio.to_thread(wait_for, lambda: list(tmp_path.glob("elsewhere/v/.*.part")))
                async with session.get("/") as page:
                    assert "not LTX-2" in await page.text()
                stats = await get(session, "/system_stats")
                engine.send_signal(signal.SIGTERM)
                async for _ in ws:
                    pass
                assert ws.close_code == 1001
                return stats

        stats = asyncio.run(begin())
        assert "--disable-auto-launch" in stats["system"]["argv"]
        assert engine.wait(60) == 0
        assert engine.stdout is not None
        log = engine.stdout.read()
        assert "execution_interrupted at SaveVideo" in log
        assert "BACKENDS_READY" not in log  # R62
        assert "Traceback" not in log
    assert not list((tmp_path / "elsewhere" / "v").iterdir())
    assert not (tmp_path / "output").exists()


def test_a_taken_port_is_one_sentence_and_exit_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [*LTXOPS, "--port", port, "--base-directory", str(tmp_path), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is taken" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert json.loads(done.stdout)["exit_code"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--base-directory", "missing"], "--base-directory missing is not a folder"),
        (["--port", "70000"], "--port 70000"),
        (["--seconds-per-step", "-1"], "--seconds-per-step -1"),
    ],
)
def test_bad_options_are_exit_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    command = [*LTXOPS, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_jobs_run_in_order_and_waiting_ones_can_be_dropped(tmp_path: Path) -> None:
    place_model(tmp_path)

    async def scenario() -> None:
        async with (
            engine(tmp_path, seconds_per_step=0.05) as session,
            session.ws_connect("/ws?clientId=me") as ws,
        ):
            long = await submit(session, sampling(1000), client_id="me")
            while (await ws.receive_json(timeout=60))["type"] != "progress":
                pass
            names = ["a", "b", "c", "d"]
            for name in names:
                await submit(session, stills(2, name), prompt_id=name)
            await submit(session, stills(2, "front"), prompt_id="front", front=True)
            async with session.post("/queue", json={"delete": ["b", long]}) as response:
                assert (response.status, await response.text()) == (200, "")
            queue = await get(session, "/queue")
            assert [entry[1] for entry in queue["queue_running"]] == [long]
            assert [entry[1] for entry in queue["queue_pending"]] == ["front", "a", "c", "d"]
            assert await get(session, "/prompt") == {"exec_info": {"queue_remaining": 5}}

            async with session.post("/interrupt", json={"prompt_id": "a"}) as response:
                assert response.status == 200
            await asyncio.sleep(0.2)
            assert await get(session, f"/history/{long}") == {}, (
                "another job's interruption is not this one's"
            )
            async with session.post("/api/interrupt", json={"prompt_id": long}):
                pass
            kind, said = (await ended(session, long))["status"]["messages"][-1]
            assert (kind, said["node_id"], said["node_type"]) == ("execution_interrupted", "6", "KSampler")
            await ended(session, "d")
            assert list(await get(session, "/history")) == [long, "front", "a", "c", "d"]
            assert list(await get(session, "/history?max_items=2")) == ["c", "d"]

            async with session.post("/history", json={"delete": ["c"]}):
                pass
            assert list(await get(session, "/history")) == [long, "front", "a", "d"]
            async with session.post("/history", json={"clear": True}):
                pass
            assert await get(session, "/history") == {}

    asyncio.run(scenario())


def test_clear_drops_all_that_waits_and_not_what_runs(tmp_path: Path) -> None:
    place_model(tmp_path)

    async def scenario() -> None:
        async with engine(tmp_path, seconds_per_step=0.05) as session:
            long = await submit(session, sampling(1000))
            await started(session, long)
            for _ in range(3):
                await submit(session, stills(2))
            async with session.post("/api/queue", json={"clear": True}):
                pass
            queue = await get(session, "/api/queue")
            assert [entry[1] for entry in queue["queue_running"]] == [long]
            assert queue["queue_pending"] == []

    asyncio.run(scenario())


def test_sampler_steps_are_told_to_the_client_of_the_job_and_to_no_other(tmp_path: Path) -> None:
    place_model(tmp_path)

    async def scenario() -> None:
        async with (
            engine(tmp_path) as session,
            session.ws_connect("/api/ws?clientId=mine") as mine,
            session.ws_connect("/ws?clientId=other") as other,
        ):
            await mine.send_json({"type": "feature_flags", "data": {}})
            prompt_id = await submit(session, sampling(3), client_id="mine")
            heard: list[dict[str, Any]] = []
            while not heard or heard[-1]["data"].get("node", "") is not None:
                heard.append(await mine.receive_json(timeout=60))
            steps = [message["data"] for message in heard if message["type"] == "progress"]
            assert [(step["value"], step["max"], step["node"]) for step in steps] == [
                (1, 3, "6"),
                (2, 3, "6"),
                (3, 3, "6"),
            ]
            assert {step["prompt_id"] for step in steps} == {prompt_id}
            assert "feature_flags" in {message["type"] for message in heard}
            await ended(session, await submit(session, stills(1, "nobody's")))
            own = await submit(session, stills(1), client_id="other")
            while (said := await other.receive_json(timeout=60))["type"] == "status":
                pass
            assert (said["type"], said["data"]["prompt_id"]) == ("execution_start", own)

    asyncio.run(scenario())


def test_a_cached_output_is_shown_again_and_free_makes_it_run_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as session, session.ws_connect("/ws?clientId=me") as ws:
            await ended(session, await submit(session, stills(2)))
            await submit(session, stills(2), client_id="me")
            heard: list[dict[str, Any]] = []
            while not heard or heard[-1]["data"].get("node", "") is not None:
                heard.append(await ws.receive_json(timeout=60))
            shown = [message["data"] for message in heard if message["type"] == "executed"]
            assert [item["output"]["images"][0]["filename"] for item in shown] == ["x_00001_.mp4"]
            async with session.post("/free", json={"free_memory": True}) as response:
                assert response.status == 200
            again = await ended(session, await submit(session, stills(2)))
            assert again["outputs"]["3"]["images"][0]["filename"] == "x_00002_.mp4"

    asyncio.run(scenario())


def test_clients_that_vanish_or_come_back_do_not_disturb_the_job(tmp_path: Path) -> None:
    place_model(tmp_path)

    async def scenario() -> None:
        async with engine(tmp_path, seconds_per_step=0.02) as session:
            assert session._base_url is not None
            reader, writer = await asyncio.open_connection(session._base_url.host, session._base_url.port)
            writer.write(
                b"GET /ws?clientId=me HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            await reader.readuntil(b'"sid": "me"')
            prompt_id = await submit(session, sampling(60), client_id="me")
            await reader.readuntil(b'"type": "progress"')
            writer.transport.abort()
            async with session.ws_connect("/ws?clientId=me") as back:
                heard = [await back.receive_json(timeout=60)]
                while heard[-1]["type"] != "execution_success":
                    heard.append(await back.receive_json(timeout=60))
                # A step can be told in between.
                first = {message["type"]: message["data"] for message in reversed(heard)}
                assert (first["status"]["sid"], first["executing"]) == ("me", {"node": "6"})
            assert (await ended(session, prompt_id))["status"]["completed"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("filename=a.txt", 200),
        ("filename=a.txt&type=output&subfolder=", 200),
        ("filename=b.txt&subfolder=sub", 200),
        ("filename=a.txt&type=input", 404),
        ("filename=", 400),
        ("type=output", 400),
        ("filename=/etc/passwd", 400),
        ("filename=..%2Fsecret", 400),
        ("filename=a%00.txt", 400),
        ("filename=a.txt&type=models", 400),
        ("filename=secret&subfolder=..", 403),
        ("filename=passwd&subfolder=/etc", 403),
        ("filename=sub", 404),
    ],
)
def test_view_gives_files_of_its_folders_only(tmp_path: Path, query: str, status: int) -> None:
    (tmp_path / "output/sub").mkdir(parents=True)
    (tmp_path / "output/a.txt").write_text("a")
    (tmp_path / "output/sub/b.txt").write_text("b")
    (tmp_path / "secret").write_text("s")

    async def scenario() -> None:
        async with engine(tmp_path) as session:
            async with session.get(f"/view?{query}") as response:
                assert response.status == status
                if status == 200:
                    assert await response.text() in ("a", "b")
                    assert response.headers["Content-Disposition"] in ('filename="a.txt"', 'filename="b.txt"')
            async with session.get(f"/api/view?{query}") as response:
                assert response.status == status

    asyncio.run(scenario())


def test_view_answers_head(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as session:
            (tmp_path / "output/a.txt").write_text("abc")
            for path in ("/view", "/api/view"):
                async with session.head(f"{path}?filename=a.txt") as response:
                    assert (response.status, response.headers["Content-Length"]) == (200, "3")

    asyncio.run(scenario())


def test_what_a_browser_would_run_is_sent_as_bytes(tmp_path: Path) -> None:  # R10
    (tmp_path / "output").mkdir()
    (tmp_path / "output/x.svg").write_text("<svg/>")

    async def scenario() -> None:
        async with engine(tmp_path) as session, session.get("/view?filename=x.svg") as response:
            assert response.headers["Content-Type"] == "application/octet-stream"

    asyncio.run(scenario())


def test_uploads_go_where_they_are_told_and_nowhere_else(tmp_path: Path) -> None:
    async def post(session: aiohttp.ClientSession, content: bytes, **fields: str) -> tuple[int, Any]:
        form = aiohttp.FormData(fields)
        form.add_field("image", content, filename="a.png")
        async with session.post("/upload/image", data=form) as response:
            return response.status, await response.json() if response.status == 200 else None

    async def scenario() -> None:
        async with engine(tmp_path) as session:
            assert await post(session, b"1", subfolder="s") == (
                200,
                {"name": "a.png", "subfolder": "s", "type": "input"},
            )
            status, body = await post(session, b"2", subfolder="s", overwrite="true")
            assert (status, body["name"]) == (200, "a.png")
            assert (tmp_path / "input/s/a.png").read_bytes() == b"2"
            assert (await post(session, b"3", type="temp"))[0] == 200
            assert (tmp_path / "temp/a.png").read_bytes() == b"3"
            for fields in ({"subfolder": "../.."}, {"subfolder": "/tmp"}, {"type": "models"}):
                assert (await post(session, b"4", **fields))[0] == 400
            async with session.post("/upload/image", data={"image": "no file"}) as response:
                assert response.status == 400
            found = await get(session, "/object_info/LoadImage")
            assert found["LoadImage"]["input"]["required"]["image"][0] == []
            assert (await post(session, b"5"))[0] == 200
            found = await get(session, "/object_info/LoadImage")
            assert found["LoadImage"]["input"]["required"]["image"][0] == ["a.png"]

    asyncio.run(scenario())


def test_lists_of_models(tmp_path: Path) -> None:
    place_model(tmp_path)
    (tmp_path / "models/embeddings").mkdir()
    (tmp_path / "models/embeddings/e.pt").write_bytes(b"x")

    async def scenario() -> None:
        async with engine(tmp_path) as session:
            assert {"checkpoints", "loras", "text_encoders", "vae"} <= set(await get(session, "/models"))
            assert await get(session, "/models/diffusion_models") == ["m.safetensors"]
            assert await get(session, "/api/embeddings") == ["e"]
            assert "max_upload_size" in await get(session, "/features")
            async with session.get("/models/nope") as response:
                assert response.status == 404

    asyncio.run(scenario())


@pytest.mark.parametrize("body", ["[1]", "5", '{"prompt": 5}', '{"prompt": {"1": 5}}', "[" * 20_000])
def test_nonsense_is_refused_and_the_engine_lives_on(tmp_path: Path, body: str) -> None:  # R60
    async def scenario() -> None:
        async with engine(tmp_path) as session:
            async with session.post("/prompt", data=body) as response:
                assert response.status in (400, 500)
            assert (await ended(session, await submit(session, stills(1))))["status"]["completed"]

    asyncio.run(scenario())


def test_pages_of_other_sites_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as session:
            headers = {"Origin": "http://evil.example"}
            async with session.post("/prompt", json={"prompt": stills(1)}, headers=headers) as response:
                assert response.status == 403
            assert await get(session, "/history") == {}

    asyncio.run(scenario())
