"""A job as server-sent events, without a server."""

import asyncio
import json

import pytest

from ltxops.generation.comfyui import Event
from ltxops.timing import in_time
from ltxops.wrapper.envelope import Outcome
from ltxops.wrapper.job import BACKLOG, Job
from ltxops.wrapper.stream import job_events


def test_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltxops.wrapper.stream.HEARTBEAT_SECONDS", 0.01)

    async def listen() -> list[bytes]:
        job = Job("a", "f", 0.0)
        heard: list[bytes] = []
        async for event in job_events(job):
            heard.append(event)
            if len(heard) == 4:
                job.outcome.set_result(Outcome(200, {"status": "completed"}))
        return heard

    heard = asyncio.run(in_time(listen(), 60))
    assert heard[0] == b'event: status\ndata: {"id":"a","status":"queued"}\n\n'
    assert heard[-1] == b'event: result\ndata: {"status":"completed"}\n\n'
    assert heard[1:-1] == [b": still there\n\n"] * 3


def test_one_who_reads_slowly_misses_steps_and_not_the_result() -> None:
    async def listen() -> list[bytes]:
        job = Job("a", "f", 0.0)
        events = job_events(job)
        heard = [await anext(events)]
        for step in range(10 * BACKLOG):
            job.observe(Event("progress", "3", step, 10 * BACKLOG, 1.0))
        job.outcome.set_result(Outcome(200, {"status": "completed"}))
        return heard + [event async for event in events]

    heard = asyncio.run(listen())
    assert len(heard) == BACKLOG + 2
    assert json.loads(heard[-2].split(b"data: ")[1])["step"] == 10 * BACKLOG - 1
    assert heard[-1].startswith(b"event: result\n")


def test_no_text_of_a_node_makes_an_event_of_its_own() -> None:
    async def listen() -> bytes:
        job = Job("a", "f", 0.0)
        events = job_events(job)
        await anext(events)
        job.observe(Event("executing", 'x"\n\nevent: result\ndata: {}\n\n\r\u2028'))
        status, event = await anext(events), await anext(events)
        assert b'"generating"' in status
        await events.aclose()  # type: ignore[attr-defined]
        return event

    event = asyncio.run(listen())
    assert event.count(b"\n") == 3 and event.startswith(b"event: node\ndata: {") and b"\r" not in event
