"""Parts of the wrapper's process: its log, its backends, its port, its settings."""

import argparse
import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ltxops.cli import wrapper as command
from ltxops.errors import BadInput, CheckFailed
from ltxops.timing import in_time
from ltxops.wrapper.answers import StrictJSON
from ltxops.wrapper.backends import SILENCE_SECONDS, Backends, judge, parse_backends
from ltxops.wrapper.faults import judge_error
from ltxops.wrapper.logs import SIGNALS, HarmlessFormatter
from ltxops.wrapper.schema import request_body_schema
from ltxops.wrapper.serve import listen
from ltxops.wrapper.slots import Slots


def format_record(message: str, *args: object) -> str:
    """Return a record as it reaches the log."""
    record = logging.LogRecord("ltxops.wrapper", logging.INFO, "file.py", 1, message, args, None)
    return HarmlessFormatter("%(levelname)s %(message)s").format(record)


@pytest.mark.parametrize("word", [*SIGNALS, "BACKENDS_READY_TIMEOUT", "backends_ready"])
def test_no_text_of_a_user_reads_as_a_signal(word: str) -> None:  # R62
    for text in (word, f"x\n{word}\n", f"a\r{word}", f"{word}\u2028{word}", f"\x1b[2J{word}\0"):
        line = format_record("job %s failed", text)
        assert not any(signal.lower() in line.lower() for signal in SIGNALS)


def test_no_text_of_a_user_makes_a_line_of_its_own() -> None:  # R62
    line = format_record("job %s", "x\nERROR everything is lost\r\x1b[31m\u2028more")
    assert line.split("\n") == ["INFO job x", "    | ERROR everything is lost\\r\\x1b[31m\\u2028more"]


def test_a_traceback_is_made_harmless_too() -> None:  # R62
    try:
        raise ValueError("BACKENDS_READY\nERROR forged")
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "f.py", 1, "failed", (), (ValueError, error, error.__traceback__)
        )
    lines = HarmlessFormatter("%(message)s").format(record).split("\n")
    assert lines[0] == "failed" and "BACKENDS_READY" not in "".join(lines)
    assert all(line.startswith("    | ") for line in lines[1:])


def test_a_slow_backend_is_down_only_after_a_long_silence() -> None:
    assert judge(None, 1e9) == "up"
    assert judge(CheckFailed("connection refused"), 0.0) == "down"
    assert judge(asyncio.TimeoutError(), SILENCE_SECONDS - 1) == "slow"
    assert judge(asyncio.TimeoutError(), SILENCE_SECONDS + 1) == "down"


def test_backends_are_read_from_one_text() -> None:
    assert parse_backends("http://127.0.0.1:18188/, http://127.0.0.1:18189/#gpu.1") == [
        "http://127.0.0.1:18188",
        "http://127.0.0.1:18189#gpu.1",
    ]
    first, second = Backends(["http://127.0.0.1:18188", "http://127.0.0.1:18189#gpu.1"]).all
    assert (first.url, first.output_subfolder) == ("http://127.0.0.1:18188", "")
    assert (second.url, second.output_subfolder) == ("http://127.0.0.1:18189", "gpu.1")


@pytest.mark.parametrize(
    "text",
    [
        *("", " , ", "127.0.0.1:18188", "ftp://x", "http://", "http://a:99999", "http://a,http://a/"),
        *("http://a,http://a#gpu.1", "http://a#..", "http://a#b/c", "http://a#%2e%2e"),
    ],
)
def test_a_backend_that_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse_backends(text)


def test_a_job_goes_to_a_backend_that_answers_and_has_least_to_do() -> None:
    async def order() -> list[list[str]]:
        backends = Backends(["http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"])
        first, second, third = backends.all
        seen = [[one.url[-1] for one in backends.usable()]]
        second.state = third.state = "up"
        second.queue_remaining = 2
        seen.append([one.url[-1] for one in backends.usable()])
        first.state, third.active = "slow", 1
        seen.append([one.url[-1] for one in backends.usable()])
        second.latch("prompt")
        seen.append([one.url[-1] for one in backends.usable()])
        return seen

    assert asyncio.run(order()) == [[], ["3", "2"], ["2", "3", "1"], ["3", "1"]]


def test_a_host_is_given_up_when_every_gpu_stays_broken(monkeypatch: pytest.MonkeyPatch) -> None:  # R62
    monkeypatch.setattr("ltxops.wrapper.backends.UNRECOVERABLE_SECONDS", 0.3)
    monkeypatch.setattr("ltxops.wrapper.backends.FIRST_PROBE_SECONDS", 0.05)
    said: list[tuple[str, float]] = []

    def say(word: str) -> Callable[[], None]:
        return lambda: said.append((word, time.monotonic()))

    async def watch(broken: int) -> float:
        """Watch for longer than it takes; returns the time of the beginning."""
        looks: asyncio.Queue[float] = asyncio.Queue()
        async with Backends(["http://127.0.0.1:1", "http://127.0.0.1:2"]) as backends:
            backends.on_change = lambda: looks.put_nowait(time.monotonic())
            for backend in backends.all[:broken]:
                backend.latch("prompt")
            begun = time.monotonic()
            watching = asyncio.create_task(
                backends.watch(
                    3600,
                    on_ready=say("ready"),
                    on_timeout=say("timeout"),
                    on_unrecoverable=say("unrecoverable"),
                )
            )
            await looks.get()
            # By the second look the time is running; a look's verdict follows it at once.
            due = await looks.get() + 0.3
            while await looks.get() < due:
                pass
            await looks.get()
            watching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await watching
        return begun

    asyncio.run(in_time(watch(1), 60))
    assert said == []
    begun = asyncio.run(in_time(watch(2), 60))
    assert [word for word, _ in said] == ["unrecoverable"], "once"
    assert said[0][1] - begun >= 0.3


@pytest.mark.parametrize(
    ("kind", "message", "fault"),
    [
        ("torch.OutOfMemoryError", "Allocation on device", "out_of_memory"),
        ("torch.cuda.OutOfMemoryError", "CUDA out of memory. Tried to allocate 2 GiB", "out_of_memory"),
        ("RuntimeError", "CUDA error: out of memory", "out_of_memory"),
        ("RuntimeError", "CUDA error: device-side assert triggered", "gpu_fault"),
        ("torch.AcceleratorError", "CUDA error: an illegal memory access was encountered", "gpu_fault"),
        ("RuntimeError", "shape mismatch", None),
        ("ValueError", "no file named 'CUDA error'", None),
        ("KeyError", "out of memory", None),
    ],
)
def test_only_the_device_says_that_the_device_is_broken(kind: str, message: str, fault: str | None) -> None:
    assert judge_error({"exception_type": kind, "exception_message": message}) == fault
    assert judge_error(None) is None and judge_error({"node_id": "1"}) is None


def test_places_are_given_in_the_order_of_coming() -> None:
    async def run() -> tuple[list[str], list[tuple[str, int]]]:
        moves: list[tuple[str, int]] = []
        backends = Backends(["http://127.0.0.1:1"])
        slots = Slots(backends, lambda job_id, place: moves.append((job_id, place)))
        order: list[str] = []

        async def work(name: str, first: bool = False) -> None:
            backend = await slots.take(name, first=first)
            order.append(name)
            await asyncio.sleep(0)
            slots.release(backend)

        tasks = {name: asyncio.create_task(work(name)) for name in ("a", "b", "gone", "c")}
        await asyncio.sleep(0)
        assert slots.take_now() is None and len(slots) == 4
        tasks["gone"].cancel()
        tasks["again"] = asyncio.create_task(work("again", first=True))
        await asyncio.sleep(0)
        backends.all[0].state = "up"
        backends.on_change()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert backends.all[0].active == 0 and len(slots) == 0
        backend = slots.take_now()
        assert backend is not None and slots.take_now() is None
        return order, moves

    order, moves = asyncio.run(run())
    assert order == ["again", "a", "b", "c"]
    assert ("c", 4) in moves and ("c", 3) in moves and ("c", 1) in moves


@pytest.mark.parametrize("seconds", [None, 60.0])
def test_who_is_cancelled_in_the_moment_of_its_turn_gives_the_place_back(seconds: float | None) -> None:
    async def run() -> None:
        backends = Backends(["http://127.0.0.1:1"])
        slots = Slots(backends, lambda job_id, place: None)
        waiting = asyncio.create_task(slots.take("job", seconds=seconds))
        await asyncio.sleep(0)
        backends.all[0].state = "up"
        backends.on_change()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert backends.all[0].active == 0 and len(slots) == 0

    asyncio.run(run())


def test_who_waits_too_long_leaves_the_queue() -> None:
    async def run() -> None:
        slots = Slots(Backends(["http://127.0.0.1:1"]), lambda job_id, place: None)
        with pytest.raises(asyncio.TimeoutError):
            await slots.take("job", seconds=0.01)
        assert len(slots) == 0

    asyncio.run(run())


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CheckFailed, match=f"port {port} on 127.0.0.1 is taken"):
            listen("127.0.0.1", port)
    with pytest.raises(CheckFailed, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", port)


def test_an_answer_is_json_for_every_client() -> None:
    """ComfyUI's history has NaN in it where a node says that it always changes."""
    answer = StrictJSON({"is_changed": [float("nan")], "top": float("inf"), "text": "\ud83d", "n": 1.5})
    text = bytes(answer.body).decode("ascii")
    assert json.loads(text, parse_constant=pytest.fail) == {
        "is_changed": [None],
        "top": None,
        "text": "\ud83d",
        "n": 1.5,
    }


def test_the_documented_request_needs_only_a_workflow() -> None:
    schema = request_body_schema()
    wanted = schema["properties"]["input"]
    assert wanted["required"] == ["workflow_json"]
    assert set(wanted["properties"]) == {"request_id", "workflow_json", "s3", "webhook"}
    assert "$ref" not in str(schema)


def test_a_job_is_answered_before_the_gateway_gives_up() -> None:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    args = parser.parse_args(["wrapper", "serve", "--output-directory", "o", "--state", "s"])
    defaults = Path(__file__).parents[2] / "roles/gateway/defaults/main.yml"
    patience = yaml.safe_load(defaults.read_text())["gateway_read_timeout_seconds"]
    assert 60 < args.job_timeout <= patience - 60
