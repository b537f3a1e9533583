"""Clients of ComfyUI's own API through the gateway: a shell script as they write it, curl and jq."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.ansible.gateway_support import TOKEN, free_port, render, start, wait_for_port
from tests.integration.wrapper_host import LONG, Host, graph, wait_for

#: Submits, waits until nothing runs, asks where the video is, and downloads it.
SCRIPT = r"""
set -euo pipefail
call() { curl -sS -H "Authorization: Bearer $TOKEN" "$@"; }
json='Content-Type: application/json'
job=$(call -H "$json" -X POST "$BASE_URL/prompt" -d @workflow.json | jq -r .prompt_id)
until [ "$(call "$BASE_URL/queue" | jq '.queue_running + .queue_pending | length')" = 0 ]; do
  sleep 0.2
done
name=$(call "$BASE_URL/history/$job" | jq -r ".\"$job\".outputs.\"3\".videos[0].filename")
call "$BASE_URL/view?filename=$name&type=output&subfolder=" -o "$name"
echo "$name"
"""


@dataclass
class Guarded:
    """A ComfyUI and a wrapper behind a gateway."""

    url: str
    host: Host
    folder: Path

    def curl(self, path: str, *arguments: str) -> tuple[int, str]:
        command = ["curl", "-sS", "-w", "\n%{http_code}", *arguments, f"{self.url}{path}"]
        command += ["-H", f"Authorization: Bearer {TOKEN}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def submit(self, workflow: dict[str, Any]) -> str:
        status, text = self.curl("/prompt", "-d", json.dumps({"prompt": workflow}))
        assert status == 200, text
        return str(json.loads(text)["prompt_id"])


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("compat")
    host = Host(folder)
    host.start_engine()
    host.start_wrapper()
    port = free_port()
    ports = {"comfyui_port": host.engine_port, "wrapper_port": host.port, "gateway_port": port}
    rendered = render(folder / "gateway", **ports)
    assert rendered.returncode == 0, rendered.stdout
    log = folder / "gateway.log"
    with log.open("wb") as output:
        process = start(folder / "gateway", output)
    wait_for_port(port, process, log)
    yield Guarded(f"http://127.0.0.1:{port}", host, folder)
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(60)
    host.close()


def workflow(frames: int, prefix: str) -> dict[str, Any]:
    """Return a graph that is the same for ComfyUI and the wrapper: no random integer to be drawn."""
    return {node: value for node, value in graph(frames, prefix, 256).items() if node != "4"}


def test_a_script_that_knows_videos_gets_its_video(guarded: Guarded) -> None:
    (guarded.folder / "workflow.json").write_text(json.dumps({"prompt": workflow(200, "by-script")}))
    done = subprocess.run(
        ["bash", "-c", SCRIPT],
        cwd=guarded.folder,
        env={**os.environ, "TOKEN": TOKEN, "BASE_URL": guarded.url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "by-script_00001_.mp4"
    assert (guarded.folder / "by-script_00001_.mp4").read_bytes()[4:8] == b"ftyp"


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_a_history_lists_videos_beside_images_and_nothing_else_differs(guarded: Guarded, prefix: str) -> None:
    both = workflow(9, "both")
    both["5"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "still"}}
    job = guarded.submit(both)
    path = f"{prefix}/history/{job}"
    entry = wait_for(lambda: json.loads(guarded.curl(path)[1]).get(job))
    status, text = guarded.curl(path)
    assert status == 200 and json.loads(text) == {job: entry}
    assert entry["outputs"]["3"]["videos"] == entry["outputs"]["3"]["images"]
    assert entry["outputs"]["3"]["videos"][0]["filename"].endswith(".mp4")
    assert "videos" not in entry["outputs"]["5"], "a picture is no video"
    for lists in entry["outputs"].values():
        lists.pop("videos", None)
    assert entry == fetch(f"{guarded.host.engine_url}/history/{job}")[job]
    listed = json.loads(guarded.curl(f"{prefix}/history?max_items=1")[1])
    assert len(listed) == 1
    assert guarded.curl(f"{prefix}/history/unknown") == (200, "{}")


def fetch(url: str) -> Any:
    """Return the JSON that is answered without the gateway."""
    done = subprocess.run(["curl", "-sS", url], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_interrupting_and_clearing_are_answered_with_an_object(guarded: Guarded, prefix: str) -> None:
    plain = {node: value for node, value in LONG.items() if node != "4"}
    running = guarded.submit(plain)
    waiting = guarded.submit(workflow(10, "never"))
    wait_for(lambda: json.loads(guarded.curl("/queue")[1])["queue_running"])
    assert guarded.curl(f"{prefix}/queue", "-d", '{"clear": true}') == (200, "{}")
    queue = json.loads(guarded.curl(f"{prefix}/queue")[1])
    assert [entry[1] for entry in queue["queue_running"]] == [running] and queue["queue_pending"] == []
    assert guarded.curl(f"{prefix}/interrupt", "-X", "POST") == (200, "{}")
    wait_for(lambda: json.loads(guarded.curl(f"/history/{running}")[1]))
    assert guarded.curl(f"/history/{waiting}") == (200, "{}")


def test_what_comfyui_itself_answers_stays_as_it_is(guarded: Guarded) -> None:
    job = guarded.submit(workflow(11, "removed"))
    wait_for(lambda: json.loads(guarded.curl(f"/history/{job}")[1]))
    assert guarded.curl("/history", "-d", json.dumps({"delete": [job]})) == (200, ""), "POST is ComfyUI's"
    assert guarded.curl(f"/history/{job}") == (200, "{}")
    assert guarded.curl("/queue", "-d", "no json")[0] >= 400
    foreign = ("-X", "POST", "-H", "Origin: https://elsewhere.example")
    assert guarded.curl("/interrupt", *foreign)[0] == 403, "a foreign page is refused as by ComfyUI"
