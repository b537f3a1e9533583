"""Role models: what lies beside the manifest on the control machine comes along to the host."""

import grp
import os
import pwd
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[2]


def provision(folder: Path) -> str:
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
        "USER_OF_TEST": pwd.getpwuid(os.geteuid()).pw_name,
        "GROUP_OF_TEST": grp.getgrgid(os.getegid()).gr_name,
    }
    playbook = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local"]
    result = subprocess.run(
        [
            *playbook,
            "-e",
            f"folder={folder} ansible_python_interpreter={sys.executable}",
            "tests/ansible/models.yml",
        ],
        cwd=REPO,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_overlay_comes_along_and_what_a_host_added_itself_stays(tmp_path: Path) -> None:
    control, etc = tmp_path / "control", tmp_path / "etc/models"
    control.mkdir()
    for name in ("models.yaml", "models.lock.yaml"):
        (control / name).write_text(f"{name}\n", encoding="utf-8")
    provision(tmp_path)
    assert sorted(path.name for path in etc.iterdir()) == ["models.lock.yaml", "models.yaml"]
    overlay = ("models.local.lock.yaml", "models.local.yaml")
    for name in overlay:
        (control / name).write_text(f"{name}\n", encoding="utf-8")
    provision(tmp_path)
    assert [(etc / name).read_text(encoding="utf-8") for name in overlay] == [f"{name}\n" for name in overlay]
    assert "changed=0" in provision(tmp_path)
    for name in overlay:
        (control / name).unlink()
    assert "changed=0" in provision(tmp_path)
    assert all((etc / name).exists() for name in overlay)
