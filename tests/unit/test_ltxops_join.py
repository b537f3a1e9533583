"""How the join of a background command reads what it finds, and what it makes of it."""

import json
import os
import time
from pathlib import Path

from plugins.action.ltxops_join import ending, so_far
from plugins.modules.ltxops_join import job_alive, look, process_alive, read_progress, result_in

from ltxops.models.progress_file import start_ticks


def progress(path: Path, **changed: object) -> Path:
    content = {
        "state": "running",
        "pid": os.getpid(),
        "pid_start_ticks": start_ticks(os.getpid()),
        "summary": "43 %",
        "note": "",
        "bytes_total": 10,
    }
    path.write_text(json.dumps({**content, **changed}))
    return path


def test_a_job_has_a_result_once_ansible_has_replaced_its_first_words() -> None:
    assert result_in("") is None
    assert result_in('{"started": 1, "finished": 0, "ansible_job_id": "j1.2"}') is None
    assert result_in('{"rc": 4, "msg": "full", "failed": true, "invocation": {}}') == {
        "rc": 4,
        "msg": "full",
        "failed": True,
    }


def test_only_a_running_process_has_progress_to_show(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    assert read_progress(path) is None
    assert read_progress(progress(path)) == {"summary": "43 %", "note": "", "bytes_total": 10}
    # A dead process left it, and another one has its number by now.
    assert read_progress(progress(path, pid_start_ticks=1)) is None
    assert read_progress(progress(path, pid=2**22 + 1)) is None
    assert read_progress(progress(path, state="done")) is None
    path.write_text("{")
    assert read_progress(path) is None


def test_a_zombie_does_not_run() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    ticks = start_ticks(pid)
    assert ticks is not None
    while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
        time.sleep(0.01)
    assert not process_alive(pid, ticks)
    os.waitpid(pid, 0)


def test_a_job_without_its_wrapper_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "j123456789.4321"
    path.write_text('{"started": 1, "finished": 0}')
    assert not job_alive(path)
    before = time.monotonic()
    assert look(path, 30) == {"alive": False, "outcome": None}
    assert time.monotonic() - before < 5


def test_a_finished_job_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "j123456789.4321"
    path.write_text('{"rc": 0, "result": {"fetched": []}, "changed": false}')
    assert look(path, 30)["outcome"] == {"rc": 0, "result": {"fetched": []}, "changed": False}


def test_what_was_fetched_is_a_change_and_a_failure_is_none() -> None:
    def changed(**outcome: object) -> object:
        found = ending({"alive": True, "outcome": outcome}, 9, "")
        return found and found["changed"]

    assert changed(result={"fetched": ["a"]}) is True
    assert changed(result={"fetched": []}) is False
    assert changed(result={}, failed=True, msg="full", changed=True) is False
    # A task that is no ltxops command.
    assert changed(changed=True) is True
    assert changed(changed=False) is False
    assert changed(failed=True, msg="no such package", changed=True) is False
    assert ending({"alive": True, "outcome": None}, 9, "") is None


def test_a_line_falls_back_to_what_is_known() -> None:
    assert so_far({"summary": "43 %", "note": "odd"}) == "43 %"
    assert so_far({"summary": "", "note": "odd"}) == "odd"
    assert so_far(None) == "no progress to show yet"
