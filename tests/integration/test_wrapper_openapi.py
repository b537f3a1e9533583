"""The wrapper held against its own OpenAPI document by a fuzzer: it does what it says."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.wrapper_host import Host, call

#: The same requests each time; the program prints it, too.
SEED = 20261121
EXAMPLES = 15
LIMIT_SECONDS = 90

#: Which graphs are valid is for ComfyUI to say (400), and no schema can; a job may have been cancelled (422).
CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 404, 409, 422]
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A ComfyUI and a wrapper."""
    host = Host(tmp_path)
    host.start_both()
    yield host
    host.close()


def test_no_request_is_answered_against_the_document(host: Host, tmp_path: Path) -> None:  # R60
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    program = str(Path(sys.executable).with_name("schemathesis"))
    command = [program, "--config-file", str(configuration), "run", f"{host.url}/openapi.json"]
    command += ["--seed", str(SEED), "--max-examples", str(EXAMPLES), "--max-time", str(LIMIT_SECONDS)]
    command += ["--continue-on-failure"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-12000:] + done.stderr[-2000:]
    assert host.running[-1].process.poll() is None
    assert call(f"{host.url}/health")[0] == 200
