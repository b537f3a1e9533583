"""The import gate against programs that start as ComfyUI does, well and badly."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from textwrap import dedent

import pytest
from tests.support import wait_for

from ltxops.cli.main import main
from ltxops.errors import BadInput, CheckFailed
from ltxops.generation import import_gate, workflows

#: Serves /object_info as ComfyUI does: the classes in classes.json, and one for each folder under the
#: custom_nodes of its base directory. It also starts a child that ignores being asked to stop.
ENGINE = """
    import argparse, http.server, json, pathlib, subprocess, sys
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", action="store_true", required=True)
    parser.add_argument("--disable-auto-launch", action="store_true", required=True)
    parser.add_argument("--listen")
    parser.add_argument("--port", type=int)
    parser.add_argument("--base-directory", type=pathlib.Path)
    args = parser.parse_args()
    assert pathlib.Path.cwd() == pathlib.Path(__file__).parent
    (args.base_directory / "output").mkdir()
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    code += "; print(flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()
    classes = json.loads(pathlib.Path("classes.json").read_text())
    nodes = args.base_directory / "custom_nodes"
    classes += [path.name for path in nodes.iterdir()] if nodes.is_dir() else []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({name: {} for name in classes}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    http.server.HTTPServer((args.listen, args.port), Handler).serve_forever()
"""
PYTHON = Path(sys.executable)


def checkout(folder: Path, program: str, classes: list[str] | None = None) -> Path:
    (folder / "classes.json").write_text(json.dumps(classes or []), encoding="utf-8")
    (folder / "main.py").write_text(dedent(program), encoding="utf-8")
    return folder / "main.py"


def running_in(folder: Path) -> list[str]:
    """Return the ids of the processes that run in a folder; one that has ended runs nowhere."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").readlink() == folder.resolve():
                found.append(process.name)
    return found


def test_classes_of_custom_nodes_count_and_everything_is_stopped_again(tmp_path: Path) -> None:  # R31
    main_py = checkout(tmp_path, ENGINE, workflows.required_classes()[1:])
    (tmp_path / "custom_nodes" / workflows.required_classes()[0]).mkdir(parents=True)
    found = import_gate.check_engine(PYTHON, main_py, None, 60)
    assert (found.missing, found.complaint) == ([], None)
    wait_for(lambda: not running_in(tmp_path))
    assert not (tmp_path / "output").exists()


def test_missing_classes_are_named_with_exit_code_1(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gone = ["LTXVGemmaCLIPModelLoader", "LTXVLatentUpsampler"]
    have = [name for name in workflows.required_classes() if name not in gone]
    command = ["gate", "--python", str(PYTHON), "--main", str(checkout(tmp_path, ENGINE, have)), "--json"]
    assert main(command) == 1
    shown = capfd.readouterr()
    assert json.loads(shown.out)["missing"] == gone
    assert "ComfyUI lacks the node classes LTXVGemmaCLIPModelLoader, LTXVLatentUpsampler" in shown.err


def test_why_an_import_failed_is_told_with_the_missing_classes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = "Cannot import /x/custom_nodes/ComfyUI-LTXVideo module for custom nodes: no kornia here"
    program = f"    print({said!r}, flush=True)\n{ENGINE}"
    main_py = checkout(tmp_path, program, workflows.required_classes()[1:])
    assert main(["gate", "--python", str(PYTHON), "--main", str(main_py), "--json"]) == 1
    shown = capfd.readouterr()
    assert json.loads(shown.out)["failed_imports"] == [said]
    assert "no kornia here" in json.loads(shown.out)["error"]


def test_a_comfyui_that_cannot_start_is_told_with_its_last_lines(tmp_path: Path) -> None:  # R32
    main_py = checkout(tmp_path, "import no_such_module_of_kornia")
    with pytest.raises(CheckFailed) as caught:
        import_gate.check_engine(PYTHON, main_py, None, 60)
    assert "ComfyUI ended with code 1" in str(caught.value)
    assert "No module named 'no_such_module_of_kornia'" in str(caught.value)


def test_a_comfyui_that_hangs_is_given_up_and_stopped(tmp_path: Path) -> None:  # R34
    main_py = checkout(tmp_path, "import time\ntime.sleep(600)")
    with pytest.raises(CheckFailed, match="did not answer in 1 s"):
        import_gate.check_engine(PYTHON, main_py, None, 1)
    assert running_in(tmp_path) == []


def test_a_comfyui_that_registers_all_and_does_not_generate_is_told(tmp_path: Path) -> None:
    main_py = checkout(tmp_path, ENGINE, workflows.required_classes())
    assert import_gate.check_engine(PYTHON, main_py, None, 60).complaint is None
    with pytest.raises(CheckFailed, match="ComfyUI does not generate"):
        import_gate.check_engine(PYTHON, main_py, None, 60, generate=True)
    wait_for(lambda: not running_in(tmp_path))


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="none/python does not exist"):
        import_gate.check_engine(tmp_path / "none/python", tmp_path / "main.py", None, 1)
    assert list(tmp_path.iterdir()) == []
