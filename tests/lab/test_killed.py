"""Provisioning that is killed again and again, on this side and on the host, and then converges."""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.lab.control import Control
from tests.lab.host import Host
from tests.lab.lab import Lab

#: Everything that a host was given, but for what its programs write while they run.
LISTING = r"""
find /etc/ltxops /etc/supervisor /etc/cron.d /etc/nginx /usr/sbin/policy-rc.d \
  /opt/ltxops /var/lib/ltxops /workspace \
  \( -name __pycache__ -o -path /opt/ltxops/cache -o -path /workspace/logs -o -path /var/lib/ltxops/smoke \
     -o -path '/var/lib/ltxops/wrapper/*' -o -path '/workspace/ComfyUI/output/*' -o -path '*/gateway/*' \
     -o -path '/workspace/ComfyUI/user/*' -o -path '/workspace/ComfyUI/temp/*' -o -path '*/.ltxops' \) \
  -prune -o -printf '%M %u %g %p\n' 2>/dev/null | sort
"""
#: Where it is killed, in their order; what takes long is in the first ones.
ROLES = ["base", "models", "comfyui", "wrapper", "gateway", "cleanup", "supervisor", "smoke"]
#: Returns at the moment when a package is being unpacked.
UNTIL_UNPACKED = "until grep -qsx dpkg-deb /proc/[0-9]*/comm; do sleep 0.02; done"
#: Kills what installs packages in the background, in the middle of one, and what Ansible started it with.
KILL_PACKAGES = rf"""
until grep -qs async_wrapp[e]r /proc/[0-9]*/cmdline; do sleep 0.02; done
{UNTIL_UNPACKED}
for process in /proc/[0-9]*; do
  case "$(tr '\0' ' ' < $process/cmdline) $(cat $process/comm)" in
    *async_wrapp[e]r.py*|*' apt-get'|*' dpkg'|*' dpkg-deb') kill -9 ${{process#/proc/}} ;;
  esac
done
"""


@pytest.fixture(scope="module")
def chance() -> random.Random:
    """A seed that a failure shows; LTXOPS_LAB_SEED repeats one."""
    seed = os.environ.get("LTXOPS_LAB_SEED") or str(random.SystemRandom().randrange(10**6))
    print(f"LTXOPS_LAB_SEED={seed}")
    return random.Random(seed)


def cut_power(host: Host) -> None:
    host.stop()
    host.start()


def test_killed_at_any_task_the_rerun_converges(
    new_lab: Callable[[], Lab], provisioned_layers: list[Path], chance: random.Random
) -> None:  # R48
    lab = new_lab()
    host = lab.add("gpu-1")
    control = Control(lab)

    run = control.begin()
    host.ssh(UNTIL_UNPACKED)
    cut_power(host)
    assert run.end().code != 0
    run = control.begin()
    host.ssh(KILL_PACKAGES)
    told = run.end()
    assert told.code == 2, told.output[-4000:]
    assert "the command in the background has ended without a result" in told.closing[-1]
    moments = sorted(chance.sample(range(len(ROLES)), 4))
    for moment, victim in zip(moments, ["control", "host"] * 2, strict=True):
        delay = chance.uniform(0, 2)
        print(f"killing the {victim} {delay:.2f} s into role {ROLES[moment]}")
        run = control.begin()
        run.until_task(f"{ROLES[moment]} :")
        time.sleep(delay)
        if victim == "control":
            run.kill()
        else:
            cut_power(host)
            run.end()
    last = control.provision()
    assert last.code == 0, last.output[-4000:]
    assert control.provision().changed("gpu-1") == []

    whole = lab.add("whole", layers=provisioned_layers)
    given = [set(it.ssh(LISTING).stdout.splitlines()) for it in (host, whole)]
    assert len(given[0]) > 1000
    assert given[0] ^ given[1] == set()
