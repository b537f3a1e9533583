"""`ltxops smoke` against a guarded host: what it proves, and what it says when something is broken."""

import asyncio
import json
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from tests.integration.smoke_host import TOKEN, Front, engine, serving, write_weights
from tests.support import wait_for

from ltxops.cli.main import main
from ltxops.generation import proof
from ltxops.generation.comfyui import Event, Execution

STEPS = ["reach", "engine", "nodes", "submit", "follow", "history", "download", "decode", "judge"]
SMALL = ["--width", "192", "--height", "128", "--length", "9"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_weights(folder, "two-stage", "distilled")
    return folder


@pytest.fixture(scope="module")
def backend(base: Path) -> Iterator[str]:
    with engine(base) as (url, _):
        yield url


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n", encoding="utf-8")
    return path


@contextmanager
def host(backend: str, **options: Any) -> Iterator[tuple[Front, str]]:
    front = Front(backend, **options)
    with serving(front) as url:
        yield front, url


def smoke(url: str, out: Path, *more: str) -> int:
    return main(["smoke", "--url", url, "--out", str(out), *more])


def read(out: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return report


def steps(report: dict[str, Any]) -> list[tuple[str, bool]]:
    return [(step["name"], step["ok"]) for step in report["steps"]]


def test_the_check_passes_through_the_gateway(
    backend: str, token_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with host(backend) as (front, url):
        assert smoke(url, out, "--token-file", str(token_file)) == 0
    report = read(out)
    assert report["ok"] is True
    assert report["exit_code"] == 0
    assert (report["case"], report["url"], report["error"]) == ("check", url, None)
    assert steps(report) == [(name, True) for name in STEPS]
    assert report["engine"]["system"]["comfyui_version"]
    assert report["engine"]["devices"]
    video = report["video"]
    assert (video["width"], video["height"], video["frames"], video["frame_rate"]) == (512, 320, 25, 24.0)
    assert video["audio"]["codec"] == "aac"
    assert Path(report["files"]["video"]) == out / "check.mp4"
    assert (out / "check.mp4").stat().st_size == video["bytes"]
    with Image.open(out / "contact-sheet.png") as sheet:
        assert sheet.format == "PNG"
    assert {"/ws", "/prompt", "/view", "/system_stats", "/object_info"} <= set(front.seen)
    shown = capfd.readouterr()
    assert shown.out.splitlines()[-1].strip() == str(out / "check.mp4")
    assert "ok   check: judge" in shown.err
    assert TOKEN not in shown.out + shown.err + (out / "report.json").read_text(encoding="utf-8")


def test_three_cases_give_three_folders_and_one_report(
    backend: str, token_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    cases = ["--case", "check,two-stage", "--case", "distilled"]
    with host(backend) as (_, url):
        more = ["--token-file", str(token_file), *cases, *SMALL, "--steps", "2", "--json"]
        assert smoke(url, out, *more) == 0
    report = json.loads(capfd.readouterr().out)
    assert report == read(out)
    assert [case["case"] for case in report["cases"]] == ["check", "two-stage", "distilled"]
    for case in report["cases"]:
        folder = out / case["case"]
        assert read(folder) == case
        assert case["ok"] is True
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            [f"{case['case']}.mp4", "contact-sheet.png", "report.json"]
        )
    sizes = {case["case"]: (case["video"]["width"], case["video"]["height"]) for case in report["cases"]}
    assert sizes == {"check": (192, 128), "two-stage": (192, 128), "distilled": (192, 128)}
    assert report["cases"][1]["parameters"]["steps"] == 2
    assert report["cases"][1]["video"]["audio"]["rms_dbfs"] > -60
    assert report["cases"][1]["video"]["motion"] > 4


def test_the_floored_size_is_expected_not_the_one_asked_for(backend: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    odd = ["--width", "200", "--height", "150", "--length", "16", "--steps", "1"]
    assert smoke(backend, out, "--case", "two-stage", *odd) == 0
    video = read(out)["video"]
    # 200 → 100 → 96 → 192, 150 → 75 → 64 → 128, 16 frames → 9.
    assert (video["width"], video["height"], video["frames"]) == (192, 128, 9)


def test_a_second_run_generates_again_and_is_not_answered_from_the_cache(
    backend: str, base: Path, tmp_path: Path
) -> None:
    def outputs() -> set[str]:
        return {path.name for path in (base / "output/video").glob("smoke-check-*")}

    assert smoke(backend, tmp_path / "out") == 0
    before = outputs()
    shutil.rmtree(base / "output/video")
    assert smoke(backend, tmp_path / "out") == 0
    assert len(outputs()) == 1
    assert not outputs() & before


def test_events_are_json_lines_and_the_last_is_the_report(
    backend: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert smoke(backend, tmp_path / "out", "--case", "distilled", *SMALL, "--events") == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert lines[-1] == read(tmp_path / "out")
    assert [line["name"] for line in lines if line.get("event") == "step"] == STEPS
    sampler = [line["percentage"] for line in lines if line.get("node") == "Sampler"]
    assert sampler == sorted(sampler)
    assert len(sampler) >= 3
    assert sampler[-1] == 100.0


@pytest.mark.parametrize(
    ("token", "step", "sentence"),
    [
        ("another-token-0123456789", "engine", "refused the token (401)"),
        (None, "reach", "needs a token and none was given (401)"),
    ],
)
def test_a_wrong_or_missing_token_is_exit_code_7(  # R1
    backend: str, tmp_path: Path, token: str | None, step: str, sentence: str
) -> None:
    more: list[str] = []
    if token is not None:
        (tmp_path / "token").write_text(token, encoding="utf-8")
        more = ["--token-file", str(tmp_path / "token")]
    with host(backend) as (front, url):
        assert smoke(url, tmp_path / "out", *more) == 7
    assert front.seen == []
    report = read(tmp_path / "out")
    assert report["ok"] is False
    assert report["exit_code"] == 7
    assert steps(report)[-1] == (step, False)
    assert sentence in report["error"]


def test_a_token_in_another_letter_case_is_refused(backend: str, tmp_path: Path) -> None:  # R2
    (tmp_path / "token").write_text(TOKEN.upper(), encoding="utf-8")
    with host(backend) as (_, url):
        assert smoke(url, tmp_path / "out", "--token-file", str(tmp_path / "token")) == 7


def test_a_host_that_guards_nothing_fails_although_it_generates(
    backend: str, token_file: Path, tmp_path: Path
) -> None:
    with host(backend, token=None) as (_, url):
        assert smoke(url, tmp_path / "out", "--token-file", str(token_file)) == 1
    report = read(tmp_path / "out")
    assert steps(report) == [("reach", False)]
    assert "answers without a token although one was given" in report["error"]


def test_a_stopped_engine_is_told_with_the_log_that_explains_it(  # R14, R30, R32
    token_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "comfyui.log"
    log.write_text("\n".join(f"line {n}" for n in range(40)) + f"\nkilled, key {TOKEN}\n", encoding="utf-8")
    with engine(tmp_path / "base") as (gone, _):
        pass
    logs = ["--log", f"comfyui={log}", "--log", f"gateway={tmp_path / 'none.log'}"]
    with host(gone) as (_, url):
        assert smoke(url, tmp_path / "out", "--token-file", str(token_file), *logs) == 1
    report = read(tmp_path / "out")
    assert steps(report) == [("reach", True), ("engine", False)]
    assert "answered 502: its gateway is up, but ComfyUI behind it is not" in report["error"]
    assert report["logs"]["comfyui"] == [*(f"line {n}" for n in range(26, 40)), "killed, key [hidden]"]
    shown = capfd.readouterr().err
    assert "ltxops: smoke check failed at engine: " in shown
    assert "line 26\n" in shown
    assert "line 25\n" not in shown
    assert "none.log cannot be read: No such file or directory" in shown
    assert TOKEN not in shown + json.dumps(report)


def test_a_stopped_gateway_is_one_sentence_with_its_url(tmp_path: Path, token_file: Path) -> None:
    with host("http://127.0.0.1:9") as (_, url):
        pass
    assert smoke(url, tmp_path / "out", "--token-file", str(token_file)) == 1
    report = read(tmp_path / "out")
    assert report["error"].startswith(f"reach: {url}/queue cannot be reached: Connect")


def at_node(monkeypatch: pytest.MonkeyPatch, node: str, act: Callable[[], None]) -> None:
    """Call `act` in the event loop of the client as soon as it has heard that a node of its job begins."""
    observe = Execution.observe

    def observed(job: Execution, message: dict[str, Any], now: float) -> list[Event]:
        events = observe(job, message, now)
        if any((event.kind, event.node) == ("executing", node) for event in events):
            act()
        return events

    monkeypatch.setattr(Execution, "observe", observed)


def test_an_engine_that_dies_in_the_middle_is_told_with_its_node(  # R36
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "_GRACE_SECONDS", 0.5)
    with engine(base, seconds_per_step=60) as (url, process):
        at_node(monkeypatch, "40", process.kill)
        assert smoke(url, tmp_path / "out", "--case", "distilled", *SMALL) == 1
    report = read(tmp_path / "out")
    assert steps(report)[-1] == ("follow", False)
    assert f"ComfyUI went away while it ran job {report['prompt_id']} at node 40" in report["error"]


def test_a_job_over_its_deadline_is_cancelled(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def let_an_hour_pass() -> None:
        """Set the clock on which the client waits."""
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: time.monotonic() + 3600)

    def is_idle(url: str) -> bool:
        with urllib.request.urlopen(url + "/queue") as answer:
            return not json.load(answer)["queue_running"]

    with engine(base, seconds_per_step=60) as (url, _):
        at_node(monkeypatch, "40", let_an_hour_pass)
        assert smoke(url, tmp_path / "out", "--case", "distilled", *SMALL, "--deadline", "3000") == 1
        wait_for(lambda: is_idle(url))
    assert "did not end within 3000 s: node 40 was the last to run" in read(tmp_path / "out")["error"]


def test_a_missing_weight_is_named_with_its_folder(tmp_path: Path) -> None:
    base = tmp_path / "base"
    write_weights(base, "two-stage")
    (base / "models/loras/ltx-2-19b-distilled-lora-384.safetensors").unlink()
    with engine(base) as (url, _):
        assert smoke(url, tmp_path / "out", "--case", "two-stage") == 1
    report = read(tmp_path / "out")
    assert steps(report)[-1] == ("nodes", False)
    assert "does not find models/loras/ltx-2-19b-distilled-lora-384.safetensors" in report["error"]
    assert "ltxops models sync" in report["error"]


def test_a_truncated_weight_fails_the_job_and_is_told(tmp_path: Path) -> None:  # R16
    base = tmp_path / "base"
    write_weights(base, "distilled")
    (base / "models/checkpoints/ltx-2-19b-distilled.safetensors").write_bytes(b"cut")
    with engine(base) as (url, _):
        assert smoke(url, tmp_path / "out", "--case", "distilled", *SMALL) == 1
    report = read(tmp_path / "out")
    assert steps(report)[-1] == ("follow", False)
    assert "SafetensorError: ltx-2-19b-distilled.safetensors" in report["error"]


def encode_still(path: Path, width: int, height: int, frames: int) -> None:
    """Make what a broken pipeline gives: one picture again and again, and silence."""
    picture = np.tile(np.linspace(0, 255, width, dtype=np.uint8)[None, :, None], (height, 1, 3))
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=24)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio: Any = container.add_stream("aac", rate=48000, layout="mono")
        for _ in range(frames):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        silence = np.zeros((1, 48000 * frames // 24), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = 48000, Fraction(1, 48000)
        container.mux(audio.encode(frame))
        container.mux(audio.encode())


def test_a_frozen_silent_video_of_the_wrong_size_fails_with_three_complaints(
    backend: str, token_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    encode_still(tmp_path / "still.mp4", 160, 128, 9)
    more = ["--token-file", str(token_file), "--case", "two-stage", *SMALL]
    with host(backend, instead_of_view=tmp_path / "still.mp4") as (_, url):
        assert smoke(url, tmp_path / "out", *more) == 1
    report = read(tmp_path / "out")
    assert steps(report)[-1] == ("judge", False)
    size, sound, picture = report["complaints"]
    assert size == "the size is 160 x 128, expected 192 x 128"
    assert sound.startswith("the sound is silent at -120 dBFS")
    assert picture.startswith("the picture is frozen")
    assert (tmp_path / "out/two-stage.mp4").is_file()
    assert (tmp_path / "out/contact-sheet.png").is_file()
    assert "smoke two-stage FAILED" in capfd.readouterr().out


def test_a_page_instead_of_a_video_fails_and_nothing_of_the_last_run_is_left(  # R19
    backend: str, token_file: Path, tmp_path: Path
) -> None:
    more = ["--token-file", str(token_file)]
    page = tmp_path / "page.html"
    page.write_text("<html>sign in</html>", encoding="utf-8")
    with host(backend) as (_, url):
        assert smoke(url, tmp_path / "out", *more) == 0
    with host(backend, instead_of_view=page) as (_, url):
        assert smoke(url, tmp_path / "out", *more) == 1
    assert steps(read(tmp_path / "out"))[-1] == ("decode", False)
    assert not (tmp_path / "out/contact-sheet.png").exists()


def test_one_failed_case_of_two_fails_the_whole_and_the_other_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with engine(tmp_path / "base") as (url, _):
        assert smoke(url, out, "--case", "two-stage", "--case", "check", *SMALL) == 1
    report = read(out)
    assert (report["ok"], report["exit_code"]) == (False, 1)
    assert [case["ok"] for case in report["cases"]] == [False, True]
    assert report["error"].startswith("two-stage: nodes: ComfyUI does not find models/checkpoints/")
    assert (out / "check/check.mp4").is_file()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--case", "sora"], "there is no workflow 'sora'"),
        (["--case", ","], "--case names no case"),
        (["--width", "-4"], "width -4 is out of range"),
        (["--steps", "5"], "no 'steps' to set in check"),
        (["--deadline", "0"], "--deadline 0 must be more than 0"),
        (["--log", "comfyui"], "--log 'comfyui' is not NAME=PATH"),
        (["--token-file", "EMPTY"], "is empty; put the token into it"),
        (["--token-file", "NONE"], "cannot be read"),
        (["--token-file", "LINES"], "must hold one line"),
        (["--url", "localhost:8188"], "'localhost:8188' is not the URL of a service"),
    ],
)
def test_bad_input_is_exit_code_2_and_nothing_is_touched(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], more: list[str], sentence: str
) -> None:
    (tmp_path / "EMPTY").write_text(" \n", encoding="utf-8")
    (tmp_path / "LINES").write_text("one\ntwo\n", encoding="utf-8")
    more = [str(tmp_path / word) if word in ("EMPTY", "NONE", "LINES") else word for word in more]
    with host("http://127.0.0.1:9", token=None) as (front, url):
        assert smoke(url, tmp_path / "out", *more) == 2
    assert front.seen == []
    assert not (tmp_path / "out").exists()
    shown = capfd.readouterr().err
    assert sentence in shown
    assert shown.count("\n") == 1
