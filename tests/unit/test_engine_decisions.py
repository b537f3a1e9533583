"""The embedded engine's decisions that need no server: validation, order, sizes, names, the queue."""

import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from ltxops.embedded.comfyui import saving
from ltxops.embedded.comfyui.catalog import (
    INPUT_FOLDERS,
    catalog,
    recorded,
    upload_checks,
    upload_path,
    weight_names,
)
from ltxops.embedded.comfyui.graph import run_order, signatures
from ltxops.embedded.comfyui.inputs import types_fit
from ltxops.embedded.comfyui.jobs import Job, JobQueue, Outcome
from ltxops.embedded.comfyui.nodes import NODES, find_node
from ltxops.embedded.comfyui.nodes.context import Unsupported
from ltxops.embedded.comfyui.nodes.images import target_size
from ltxops.embedded.comfyui.options import Folders, folders_under
from ltxops.embedded.comfyui.origin import is_foreign
from ltxops.embedded.comfyui.saving import save
from ltxops.embedded.comfyui.validate import Verdict, validate

Graph = dict[str, dict[str, Any]]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    found = folders_under(tmp_path)
    found.create()
    return found


def check(graph: Graph, folders: Folders) -> Verdict:
    return validate(graph, catalog(folders), upload_checks(folders))


def first_error(verdict: Verdict, node_id: str) -> dict[str, Any]:
    error: dict[str, Any] = verdict.node_errors[node_id]["errors"][0]
    return error


def weightless() -> Graph:
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 64, "batch_size": "3", "color": True},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": 7}},
    }


def test_values_are_converted_in_the_graph(folders: Folders) -> None:
    graph = weightless()
    assert check(graph, folders) == Verdict(["2"], None, {})
    assert graph["1"]["inputs"] == {"width": 64, "height": 64, "batch_size": 3, "color": 1}
    assert graph["2"]["inputs"]["filename_prefix"] == "7"


@pytest.mark.parametrize("value", ["abc", None, float("inf"), {}])
def test_what_cannot_be_converted_is_refused(folders: Folders, value: object) -> None:
    graph = weightless()
    graph["1"]["inputs"]["width"] = value
    assert first_error(check(graph, folders), "1")["type"] == "invalid_input_type"


@pytest.mark.parametrize(
    ("link", "kind"),
    [
        (["1"], "bad_linked_input"),
        (["1", 5], "exception_during_validation"),
        (["nowhere", 0], "exception_during_validation"),
        ([["1"], 0], "exception_during_validation"),
    ],
)
def test_broken_links_of_an_output(folders: Folders, link: list[Any], kind: str) -> None:
    graph = weightless()
    graph["2"]["inputs"]["images"] = link
    verdict = check(graph, folders)
    assert first_error(verdict, "2")["type"] == kind
    assert verdict.error is not None
    assert first_error(verdict, "2")["message"] in verdict.error["details"]


def test_a_cycle_is_named_and_ends(folders: Folders) -> None:
    graph: Graph = {
        "1": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    verdict = check(graph, folders)
    assert set(verdict.node_errors) == {"1", "2"}
    for node_id in ("1", "2"):
        assert first_error(verdict, node_id)["type"] == "dependency_cycle"
    assert first_error(verdict, "1")["details"] == "1 (ImageInvert) -> 2 (ImageInvert) -> 1 (ImageInvert)"


def test_a_chain_too_long_to_follow_is_refused(folders: Folders) -> None:  # R60
    graph = weightless()
    for number in range(3, 3003):
        above = "1" if number == 3 else str(number - 1)
        graph[str(number)] = {"class_type": "ImageInvert", "inputs": {"image": [above, 0]}}
    graph["2"]["inputs"]["images"] = ["3002", 0]
    verdict = check(graph, folders)
    assert verdict.error is not None
    assert verdict.outputs == []


def test_a_weight_in_the_wrong_folder_is_not_in_the_list(folders: Folders) -> None:
    graph: Graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
        "2": {
            "class_type": "VAEEncode",
            "inputs": {"pixels": ["3", 0], "vae": ["1", 2]},
        },
        "3": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0},
        },
        "4": {"class_type": "VAEDecode", "inputs": {"samples": ["2", 0], "vae": ["1", 2]}},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
    }
    (folders.models / "loras").mkdir(parents=True)
    (folders.models / "loras/a.safetensors").write_bytes(b"x")
    error = first_error(check(graph, folders), "1")
    assert error["type"] == "value_not_in_list"
    assert error["details"] == "ckpt_name: 'a.safetensors' not in []"
    (folders.models / "checkpoints").mkdir()
    (folders.models / "loras/a.safetensors").rename(folders.models / "checkpoints/a.safetensors")
    assert check(graph, folders).error is None


def test_a_long_list_of_choices_is_counted_not_shown(folders: Folders) -> None:
    (folders.models / "loras").mkdir(parents=True)
    for number in range(21):
        (folders.models / f"loras/{number}.safetensors").write_bytes(b"x")
    graph: Graph = {
        "1": {"class_type": "LoraLoaderModelOnly", "inputs": {"lora_name": "x", "strength_model": 1}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "x"}},
        "4": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["6", 0]}},
        "5": {
            "class_type": "KSampler",
            "inputs": {"model": ["1", 0]},
        },
        "6": {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}},
    }
    errors = check(graph, folders).node_errors["1"]["errors"]
    listed = next(error for error in errors if error["type"] == "value_not_in_list")
    assert listed["details"] == "lora_name: 'x' not in (list of length 21)"
    assert listed["extra_info"]["input_config"] is None


def test_options_bring_their_own_inputs(folders: Folders) -> None:
    graph = weightless()
    graph["3"] = {
        "class_type": "ResizeImageMaskNode",
        "inputs": {"input": ["1", 0], "resize_type": "scale width", "scale_method": "area"},
    }
    graph["2"]["inputs"]["images"] = ["3", 0]
    error = first_error(check(graph, folders), "3")
    assert (error["type"], error["extra_info"]) == (
        "required_input_missing",
        {"input_name": "resize_type.width"},
    )
    graph["3"]["inputs"]["resize_type.width"] = 32
    assert check(graph, folders).error is None


def test_an_uploaded_file_must_be_there(folders: Folders) -> None:
    graph: Graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "../input/../x.png"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    (folders.input.parent / "x.png").write_bytes(b"x")
    error = first_error(check(graph, folders), "1")
    assert error["type"] == "custom_validation_failed"
    assert error["details"] == "image - Invalid image file: ../input/../x.png"
    (folders.output / "x.png").write_bytes(b"x")
    graph["1"]["inputs"]["image"] = "x.png [output]"
    assert check(graph, folders).error is None
    assert upload_path(folders, "x.png [output]") == folders.output / "x.png"


def test_weights_are_listed_by_folder_and_links_do_not_loop(folders: Folders) -> None:
    for name in ("text_encoders/b/1.safetensors", "text_encoders/a.SAFETENSORS", "clip/c.pt"):
        path = folders.models / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (folders.models / "text_encoders/b/note.txt").write_bytes(b"x")
    (folders.models / "text_encoders/.d.safetensors.part").write_bytes(b"x")
    (folders.models / "text_encoders/b/up").symlink_to(folders.models / "text_encoders")
    assert weight_names(folders.models, "text_encoders") == ["a.SAFETENSORS", "b/1.safetensors", "c.pt"]


def test_every_recorded_class_has_a_stand_in_and_others_are_named() -> None:
    assert set(NODES) == set(recorded())
    with pytest.raises(Unsupported, match="no stand-in for Other"):
        find_node("Other")


def test_every_recorded_list_of_files_comes_from_disk(folders: Folders) -> None:
    """A list with a weight's name in it that the table does not know would offer files that are not there."""
    for class_type, node in catalog(folders).items():
        for name, spec in node["input"].get("required", {}).items():
            choices = spec[0] if isinstance(spec[0], list) else spec[1].get("options", []) if spec[1:] else []
            left = [c for c in choices if isinstance(c, str) and c.endswith((".safetensors", ".png"))]
            assert not left, (class_type, name)
    assert {name for name in INPUT_FOLDERS if name.endswith("_name")} >= {
        "ckpt_name",
        "lora_name",
        "vae_name",
    }


@pytest.mark.parametrize(
    ("received", "wanted", "fits"),
    [
        ("IMAGE", "IMAGE", True),
        ("IMAGE", "LATENT", False),
        ("IMAGE", "IMAGE,MASK", True),
        ("INT", "*", True),
        ("COMFY_MATCHTYPE_V3", "IMAGE", True),
        ("STRING", ["a", "b"], False),
    ],
)
def test_link_types(received: str, wanted: Any, fits: bool) -> None:
    assert types_fit(received, wanted) is fits


def order(graph: Graph, outputs: list[str], cached: Collection[str] = ()) -> list[str]:
    return list(run_order(graph, outputs, lambda node: node in outputs, cached))


def test_nodes_run_after_what_feeds_them_and_outputs_as_soon_as_they_can() -> None:
    graph: Graph = {
        "slow": {"class_type": "x", "inputs": {"a": ["start", 0]}},
        "start": {"class_type": "x", "inputs": {}},
        "preview": {"class_type": "x", "inputs": {"a": ["start", 0]}},
        "save": {"class_type": "x", "inputs": {"a": ["slow", 0], "b": "start"}},
        "unused": {"class_type": "x", "inputs": {}},
    }
    assert order(graph, ["save", "preview"]) == ["start", "preview", "slow", "save"]
    assert order(graph, ["save"], {"slow", "start"}) == ["save"]
    assert order(graph, ["save"], {"slow", "start", "save"}) == ["save"]


def test_a_signature_follows_values_and_links_but_not_names() -> None:
    def graph(first: str, value: int) -> Graph:
        return {
            first: {"class_type": "a", "inputs": {"v": value}, "_meta": {"title": first}},
            "end": {"class_type": "b", "inputs": {"x": [first, 0]}},
        }

    def end(graph: Graph, changed: str = "") -> str:
        return signatures(graph, ["end"], lambda node: changed)["end"]

    assert end(graph("n1", 1)) == end(graph("n2", 1))
    assert end(graph("n1", 1)) != end(graph("n1", 2))
    assert end(graph("n1", 1)) != end(graph("n1", 1), "newer file")


@pytest.mark.parametrize(
    ("kind", "given", "size"),
    [
        ("scale dimensions", {"width": 50, "height": 0}, (50, 25)),
        ("scale by multiplier", {"multiplier": 0.5}, (100, 50)),
        ("scale longer dimension", {"longer_size": 100}, (100, 50)),
        ("scale shorter dimension", {"shorter_size": 50}, (100, 50)),
        ("scale width", {"width": 20}, (20, 10)),
        ("scale height", {"height": 10}, (20, 10)),
        ("scale total pixels", {"megapixels": 20_000 / 1024 / 1024}, (200, 100)),
        ("scale to multiple", {"multiple": 32}, (192, 96)),
    ],
)
def test_ways_to_resize(kind: str, given: dict[str, Any], size: tuple[int, int]) -> None:
    assert target_size(kind, given, 200, 100) == size


def test_results_are_numbered_on_from_what_is_there(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_text("x")

    (tmp_path / "sub").mkdir()
    for name in ("a_00007_.mp4", "a_b_00009_.mp4", "ab_00099_.mp4", "a_x_.mp4"):
        (tmp_path / "sub" / name).write_text("")
    assert save(tmp_path, "output", "sub/a", ".mp4", write) == {
        "filename": "a_00008_.mp4",
        "subfolder": "sub",
        "type": "output",
    }
    assert save(tmp_path, "output", "a", ".mp4", write)["subfolder"] == ""


def test_two_engines_on_one_folder_do_not_overwrite_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_takes_the_number_meanwhile(folder: Path, name: str) -> int:
        (folder / f"{name}_00001_.mp4").write_text("theirs")
        return 1

    monkeypatch.setattr(saving, "next_number", other_takes_the_number_meanwhile)

    def write(path: Path) -> None:
        path.write_text("ours")

    listed = save(tmp_path, "output", "a", ".mp4", write)
    assert listed["filename"] == "a_00002_.mp4"
    assert (tmp_path / "a_00001_.mp4").read_text() == "theirs"
    assert (tmp_path / "a_00002_.mp4").read_text() == "ours"


@pytest.mark.parametrize(
    ("host", "origin", "site", "foreign"),
    [
        ("127.0.0.1:8188", None, None, False),
        ("127.0.0.1:8188", "http://127.0.0.1:8188", "same-origin", False),
        ("127.0.0.1:8188", "http://evil.example", None, True),
        ("127.0.0.1:8188", "http://127.0.0.1:9", None, True),
        ("localhost:8188", "http://127.0.0.1:8188", None, True),
        ("public.example", "http://other.example", None, False),
        ("public.example", None, "cross-site", True),
        ("127.0.0.1", "null", None, False),
    ],
)
def test_pages_of_other_sites(host: str, origin: str | None, site: str | None, foreign: bool) -> None:
    assert is_foreign(host, origin, site) is foreign


def job(queue: JobQueue, name: str, *, front: bool = False) -> Job:
    found = Job(queue.number(front=front), name, {}, {}, [])
    queue.put(found, lambda: None)
    return found


def test_what_is_told_of_a_job_comes_before_it_is_taken() -> None:
    queue = JobQueue()
    seen: list[Job | None] = []
    worker = threading.Thread(target=lambda: seen.append(queue.take()))
    worker.start()

    def tell() -> None:
        time.sleep(0.05)
        seen.append(None)

    queue.put(found := Job(0, "a", {}, {}, []), tell)
    worker.join()
    assert seen == [None, found]


def test_the_queue_runs_in_order_and_the_front_first() -> None:
    queue = JobQueue()
    for name in ("a", "b", "c", "d"):
        job(queue, name)
    job(queue, "first", front=True)
    queue.delete("b")
    queue.delete("unknown")
    taken = queue.take()
    assert taken is not None
    assert taken.prompt_id == "first"
    running, pending = queue.current()
    assert [entry[1] for entry in running + pending] == ["first", "a", "c", "d"]
    assert queue.remaining() == 4
    queue.interrupt("a")
    assert not taken.cancel.is_set(), "only the running job is interrupted by its id"
    queue.interrupt("first")
    assert taken.cancel.is_set()
    queue.finish(taken, Outcome(True, {}, {}, []))
    queue.clear()
    assert queue.remaining() == 0


def test_the_history_keeps_order_and_can_be_cut_and_forgotten() -> None:
    queue = JobQueue()
    for name in ("a", "b", "c"):
        job(queue, name)
        taken = queue.take()
        assert taken is not None
        queue.finish(taken, Outcome(name != "b", {}, {}, []))
    assert list(queue.history()) == ["a", "b", "c"]
    assert list(queue.history(2)) == ["b", "c"]
    assert list(queue.history(1, 1)) == ["b"]
    assert queue.history_of("b")["b"]["status"] == {
        "status_str": "error",
        "completed": False,
        "messages": [],
    }
    queue.forget("b")
    assert list(queue.history()) == ["a", "c"]
    queue.forget(None)
    assert queue.history() == {}


def test_closing_the_queue_wakes_who_waits() -> None:
    queue = JobQueue()
    got: list[Job | None] = []
    waiter = threading.Thread(target=lambda: got.append(queue.take()))
    waiter.start()
    queue.close()
    waiter.join(5)
    assert got == [None]
