"""Settings of the whole test run."""

import os
import signal
from pathlib import Path

import ansible.module_utils
import pytest

# A run in the background of a shell ignores Ctrl-C, and so would the programs whose Ctrl-C is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Where our modules find the code they share, once Ansible has packed them.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "plugins/module_utils"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that skipped something where nothing may be skipped (LTXOPS_NO_SKIPS, which CI sets)."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("LTXOPS_NO_SKIPS"):
        return
    skipped = reporter.stats.get("skipped", [])
    if skipped and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"{len(skipped)} tests were skipped, and LTXOPS_NO_SKIPS forbids it", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
