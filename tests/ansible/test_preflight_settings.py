"""What the wrapper would refuse to start with is refused before anything is changed, in the same words."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.ansible.test_gpus import GPU, provision
from tests.integration.wrapper_host import LTXOPS

SECRET = "host-secret-0123456789"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, as the path of supervisord's socket has a limit."""
    with tempfile.TemporaryDirectory(prefix="settings-") as name:
        yield Path(name)


def wrapper_says(folder: Path, environment: dict[str, str]) -> str:
    """Return why the wrapper does not start with this environment."""
    command = [*LTXOPS, "wrapper", "serve", "--output-directory", str(folder), "--state", str(folder / "s")]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    return done.stderr.strip().removeprefix("ltxops: ")


def test_wrong_storage_is_refused_before_anything_is_there(folder: Path) -> None:
    wrong = {"S3_SECRET_ACCESS_KEY": SECRET, "S3_BUCKET_NAME": "videos", "S3_URL_EXPIRY_SECONDS": "3600"}
    code, output = provision(folder, GPU, "-vvv", "--diff", wrapper_environment=wrong)
    assert code == 2
    sentence = wrapper_says(folder, wrong)
    assert "S3_ACCESS_KEY_ID is not" in sentence
    assert f"wrapper_environment: {sentence} [ltxops exit 2]" in output
    assert SECRET not in output
    assert not (folder / "workspace").exists()


@pytest.mark.parametrize(
    "given",
    [
        {"S3_ACCESS_KEY_ID": "id", "S3_SECRET_ACCESS_KEY": SECRET, "S3_BUCKET_NAME": "a b"},
        {"S3_URL_EXPIRY_SECONDS": 604_801},
        {"WEBHOOK_URL": "ftp://example.org/hook"},
        {"WRAPPER_ALLOWED_NETWORKS": "10.0.0.1/8"},
    ],
    ids=lambda given: max(given),
)
def test_each_wrong_setting_is_named_and_no_secret_is(tmp_path: Path, given: dict[str, object]) -> None:
    done = check(json.dumps(given))
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["exit_code"]) == (2, 2)
    assert answer["error"] == wrapper_says(tmp_path, {name: str(value) for name, value in given.items()})
    assert SECRET not in done.stdout + done.stderr


def test_good_settings_pass_and_what_is_none_does_not() -> None:
    good = {"S3_ACCESS_KEY_ID": "id", "S3_SECRET_ACCESS_KEY": SECRET, "S3_BUCKET_NAME": "videos"}
    assert check(json.dumps({**good, "WEBHOOK_TIMEOUT_SECONDS": 5, "OTHER": None})).returncode == 0
    assert check("{}").returncode == 0
    for text in ("", "[]", "{"):
        assert check(text).returncode == 2


def check(text: str) -> "subprocess.CompletedProcess[str]":
    command = [*LTXOPS, "wrapper", "check", "--json"]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
