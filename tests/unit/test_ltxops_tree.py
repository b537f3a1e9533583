"""The module ltxops_tree as Ansible runs it, on files of a test: what it makes, leaves alone, and refuses."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from plugins.modules import ltxops_tree

Run = Any


@pytest.fixture
def tree(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(check: bool = False, **arguments: Any) -> dict[str, Any]:
        given = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True}
        with patch_module_args(given), pytest.raises(SystemExit):
            ltxops_tree.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return run


def mode_of(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


def test_what_is_wanted_is_made_once(tree: Run, tmp_path: Path) -> None:
    wanted = {
        "folders": [{"path": f"{tmp_path}/a"}, {"path": f"{tmp_path}/a/b", "mode": "2775"}],
        "files": [{"path": f"{tmp_path}/a/b/c", "content": "text\n", "mode": "0600"}],
        "absent": [f"{tmp_path}/old"],
    }
    (tmp_path / "old").write_text("")
    first = tree(**wanted)
    assert first["touched"] == [f"{tmp_path}/{name}" for name in ("a", "a/b", "a/b/c", "old")]
    assert (tmp_path / "a/b/c").read_text() == "text\n"
    assert [mode_of(tmp_path / name) for name in ("a", "a/b", "a/b/c")] == ["0o755", "0o2775", "0o600"]
    assert sorted(path.name for path in (tmp_path / "a/b").iterdir()) == ["c"]
    assert not (tmp_path / "old").exists()
    again = tree(**wanted)
    assert (again["changed"], again["touched"]) == (False, [])


def test_a_check_writes_nothing_and_shows_what_would_change(tree: Run, tmp_path: Path) -> None:  # R47
    file, old = tmp_path / "file", tmp_path / "old"
    file.write_text("before\n")
    old.write_text("")
    wanted = {
        "folders": [{"path": f"{tmp_path}/new/folder", "owner": "nobody-has-this-name"}],
        "files": [
            {"path": str(file), "content": "after\n", "group": "nor-this"},
            {"path": f"{tmp_path}/new/folder/file", "content": "x\n"},
        ],
        "absent": [str(old)],
    }
    checked = tree(check=True, **wanted)
    assert len(checked["touched"]) == 4
    shown = json.dumps(checked["diff"])
    assert all(words in shown for words in ("before", "after", "new folder", "new file", "removed"))
    assert (file.read_text(), old.exists(), (tmp_path / "new").exists()) == ("before\n", True, False)


def test_a_missing_user_or_folder_is_named_before_anything_is_done(tree: Run, tmp_path: Path) -> None:
    refused = tree(folders=[{"path": f"{tmp_path}/a"}, {"path": f"{tmp_path}/b", "owner": "no-such"}])
    assert "user no-such is not on this host" in refused["msg"]
    assert "role base" in refused["msg"]
    assert list(tmp_path.iterdir()) == []
    lost = tree(files=[{"path": f"{tmp_path}/none/file", "content": ""}])
    assert f"{tmp_path}/none is not there" in lost["msg"]


def test_what_does_not_validate_leaves_the_file_as_it_was(tree: Run, tmp_path: Path) -> None:  # R35
    file = tmp_path / "nginx.conf"
    file.write_text("good\n")
    command = ["grep", "-q", "good", "%s"]
    refused = tree(files=[{"path": str(file), "content": "bad\n", "validate": command}])
    assert "would not be valid" in refused["msg"]
    assert (file.read_text(), [path.name for path in tmp_path.iterdir()]) == ("good\n", ["nginx.conf"])
    assert tree(files=[{"path": str(file), "content": "also good\n", "validate": command}])["changed"]


def test_what_a_killed_run_left_is_in_nobodys_way(tree: Run, tmp_path: Path) -> None:  # R48
    target = tmp_path / "elsewhere"
    target.write_text("untouched")
    (tmp_path / ".file.part").symlink_to(target)
    tree(files=[{"path": f"{tmp_path}/file", "content": "whole\n"}])
    assert ((tmp_path / "file").read_text(), target.read_text()) == ("whole\n", "untouched")
    assert not (tmp_path / ".file.part").is_symlink()


def test_a_pattern_removes_all_but_what_is_kept(tree: Run, tmp_path: Path) -> None:
    for name in ("comfyui.sh", "comfyui-1.sh", "comfyui-2.sh"):
        (tmp_path / name).write_text("")
    (tmp_path / "comfyui-3.sh").symlink_to("nowhere")
    tree(absent=[f"{tmp_path}/comfyui-[0-9]*.sh", f"{tmp_path}/none"], keep=[f"{tmp_path}/comfyui-1.sh"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comfyui-1.sh", "comfyui.sh"]


def test_a_folder_where_a_file_is_wanted_is_refused_and_so_is_the_reverse(tree: Run, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    assert "is a folder" in tree(files=[{"path": f"{tmp_path}/folder", "content": ""}])["msg"]
    assert "is not a folder" in tree(folders=[{"path": f"{tmp_path}/file"}])["msg"]
