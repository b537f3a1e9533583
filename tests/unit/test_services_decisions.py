"""When `services wait` says ready, when it gives up, and what a host description must hold."""

import copy
from pathlib import Path
from typing import Any

import pytest

from ltxops.errors import BadInput
from ltxops.upkeep.health import Answer, tail
from ltxops.upkeep.host import Program, load, parse
from ltxops.upkeep.services import CONFIRM_SECONDS, EXITED_SECONDS, SETTLED_SECONDS, Status, Watch, complaints
from ltxops.upkeep.supervisor import Process, by_name

GOOD: dict[str, Any] = {
    "name": "demo",
    "scope": "user",
    "supervisor": {"socket": "/run/s.sock"},
    "programs": [
        {
            "name": "a",
            "address": "127.0.0.1:1",
            "health": {"url": "http://127.0.0.1:1/x", "status": 401},
            "log": "/l",
        },
        {"name": "b", "address": "", "health": None, "log": "/l"},
    ],
    "token_file": "/t",
    "url": "http://127.0.0.1:1",
}
PROGRAM = Program("a", "127.0.0.1:1", None, "")


def status(state: str = "RUNNING", pid: int = 7, healthy: bool = True, started: int = 100) -> Status:
    process = Process(state, pid, started, 1, "", 3)
    return Status(PROGRAM, process, Answer(healthy, "200" if healthy else "connection refused"))


def test_ready_takes_two_looks_at_one_process() -> None:
    watch = Watch()
    watch.see(status(), 0.0)
    assert not watch.ready(0.0)
    watch.see(status(), CONFIRM_SECONDS)
    assert watch.ready(CONFIRM_SECONDS)


def test_one_that_has_run_for_long_is_ready_when_it_is_well_once() -> None:
    watch = Watch()
    old = Process("RUNNING", 7, 100, SETTLED_SECONDS, "", 0)
    watch.see(Status(PROGRAM, old, Answer(False, "refused")), 0.0)
    assert not watch.ready(0.0)
    watch.see(Status(PROGRAM, old, Answer(True, "200")), 0.5)
    assert watch.ready(0.5)


def test_a_new_pid_or_a_bad_moment_starts_over() -> None:  # R32
    for between in (status(pid=8), status(healthy=False), status(state="STARTING")):
        watch = Watch()
        watch.see(status(), 0.0)
        watch.see(between, CONFIRM_SECONDS)
        assert not watch.ready(CONFIRM_SECONDS)


def test_fatal_is_hopeless_at_once_and_exited_after_a_while() -> None:  # R32
    watch = Watch()
    watch.see(status("FATAL"), 0.0)
    assert "FATAL" in watch.hopeless(status("FATAL"), 0.0)
    exited = status("EXITED")
    watch = Watch()
    watch.see(exited, 0.0)
    assert watch.hopeless(exited, 0.0) == ""
    assert "EXITED with status 3" in watch.hopeless(exited, EXITED_SECONDS)
    watch.see(status("STARTING"), 1.0)  # supervisord did start it again
    watch.see(exited, EXITED_SECONDS)
    assert watch.hopeless(exited, EXITED_SECONDS) == ""


def test_a_crash_loop_is_hopeless_though_each_start_looks_well() -> None:  # R32
    watch = Watch()
    for start in range(4):
        assert watch.hopeless(status(), float(start)) == ""
        watch.see(status(pid=start + 1, started=100 + start), float(start))
    assert "keeps crashing" in watch.hopeless(status(), 4.0)


def test_complaints_name_each_program() -> None:
    assert complaints([status()]) is None
    failure = complaints([status(), status("BACKOFF"), status(healthy=False)])
    assert failure is not None
    assert "a is BACKOFF" in str(failure)
    assert "connection refused" in str(failure)


def test_a_grouped_program_is_found_by_both_names() -> None:
    info = {
        "name": "a",
        "group": "g",
        "statename": "RUNNING",
        "pid": 5,
        "start": 10,
        "now": 25,
        "spawnerr": "",
    }
    found = by_name([{**info, "exitstatus": 0}])
    assert found["a"] == found["g:a"]
    assert found["a"].uptime_seconds == 15


def test_a_good_description_is_understood() -> None:
    host = parse({**GOOD, "later": 1}, "host.json")
    assert [program.name for program in host.programs] == ["a", "b"]
    assert host.programs[0].health is not None
    assert host.programs[0].health.status == 401
    assert host.programs[1].health is None


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("supervisor",), None, "supervisor.socket"),
        (("supervisor", "socket"), "s.sock", "supervisor.socket"),
        (("name",), 3, "name"),
        (("programs",), [], "programs"),
        (("programs", 0), "a", "programs[0]"),
        (("programs", 0, "name"), "", "programs[0].name"),
        (("programs", 1, "name"), "a", "'a'"),
        (("programs", 0, "log"), 3, "programs[0].log"),
        (("programs", 0, "health"), "http://x", "programs[0].health"),
        (("programs", 0, "health", "url"), "127.0.0.1:1/x", "programs[0].health.url"),
        (("programs", 0, "health", "url"), "http://127.0.0.1:99999/", "programs[0].health.url"),
        (("programs", 0, "health", "url"), "http://h/a b", "programs[0].health.url"),
        (("programs", 0, "health", "status"), "200", "programs[0].health.status"),
    ],
)
def test_a_bad_description_is_named_by_its_key(path: tuple[Any, ...], value: Any, named: str) -> None:
    content = copy.deepcopy(GOOD)
    place: Any = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(BadInput) as caught:
        parse(content, "host.json")
    assert "host.json" in str(caught.value)
    assert named in str(caught.value)


def test_a_description_that_is_missing_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        load(str(tmp_path / "host.json"))
    (tmp_path / "host.json").write_text("{")
    with pytest.raises(BadInput, match="not JSON"):
        load(str(tmp_path / "host.json"))


def test_the_tail_of_a_log_is_bounded_and_clean(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 200_000 + b"\n1%\r50%\r100%\n\n\x1b[31mred\x1b[0m \xff\x07end\n")
    assert tail(str(log), 2) == ["100%", "red \ufffd?end"]
    assert len(tail(str(log), 15)[0]) < 70_000
    assert tail(str(tmp_path / "none"), 15) == []
    assert tail("", 15) == []
