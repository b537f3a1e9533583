"""`fab logs` against real sshds: several hosts, rotation, lost connections, host keys."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fabric import Config
from tests.integration.fleet_support import FAB, REPO, SECRET, Fleet, until
from tests.unit.test_fleet_rotation import rotate

from ltxops.errors import NetworkError
from ltxops.fleet import logs
from ltxops.fleet.connect import Access
from ltxops.fleet.selection import Selection, choose

#: Writes numbered lines, some of them longer than a block of the log's rotation.
COUNTER = """
import pathlib, time
print("waiting", flush=True)
while not (pathlib.Path(__file__).parent / "go").exists(): time.sleep(0.05)
for number in range(1500):
    print(f"line {number} " + "x" * (number % 90), flush=True)
    time.sleep(0.002)
print("done", flush=True)
time.sleep(600)
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    one = Fleet(tmp_path)
    yield one
    one.close()


def write(fleet: Fleet, name: str, text: str) -> Path:
    log = fleet.folder / name / "logs/comfyui.log"
    with log.open("a") as file:
        file.write(text)
    return log


def followers(fleet: Fleet) -> list[str]:
    done = subprocess.run(
        ["pgrep", "-f", f"ltxops.fleet.follow.*{fleet.folder}"], capture_output=True, text=True
    )
    return done.stdout.split()


def test_the_last_lines_of_several_hosts(fleet: Fleet) -> None:
    for name in ("gpu1", "gpu-long"):
        fleet.add(name)
        write(fleet, name, "".join(f"{name} line {number}\n" for number in range(30)))
    code, out, errors = fleet.fab("logs", "--lines", "2", "--no-follow")
    assert (code, errors) == (0, "")
    assert sorted(out.splitlines()) == [
        "gpu-long | gpu-long line 28",
        "gpu-long | gpu-long line 29",
        "gpu1     | gpu1 line 28",
        "gpu1     | gpu1 line 29",
    ]
    code, out, _ = fleet.fab("logs", "--lines", "1", "--no-follow", "--on", "gpus:!gpu-long")
    assert (code, out) == (0, "gpu1 | gpu1 line 29\n")


def test_following_until_ctrl_c_leaves_nothing_behind(fleet: Fleet) -> None:
    for name in ("gpu1", "gpu2"):
        fleet.add(name)
        write(fleet, name, "old\n")
    with fleet.running("logs", "--lines", "1") as running:
        for name in ("gpu1", "gpu2"):
            running.shows(rf"{name} \| old")
            write(fleet, name, "\x1b[31mred\x1b[0m and \x1b]0;title\x07bell\n")
        for name in ("gpu1", "gpu2"):
            running.shows(rf"{name} \| red and \?\]0;title\?bell\n")
        assert len(followers(fleet)) >= 2
        assert running.interrupt() == 0
        assert running.err == ""
    until(lambda: not followers(fleet), "the followers on the hosts have ended")


def test_a_reader_that_goes_away_ends_it(fleet: Fleet) -> None:
    fleet.add("gpu1")
    write(fleet, "gpu1", "one\ntwo\n" * 50_000)
    command = [str(FAB), "logs", "--lines", "100000"]
    with subprocess.Popen(
        command, cwd=REPO, env=fleet.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as fab:
        assert fab.stdout is not None
        assert fab.stderr is not None
        assert fab.stdout.readline() == b"gpu1 | one\n"
        fab.stdout.close()
        assert fab.wait(60) == 141
        assert fab.stderr.read() == b""


def numbered(out: str) -> list[str]:
    return [line.split(" ")[3] for line in out.splitlines() if "| line " in line]


def test_rotation_by_supervisord_loses_no_line(fleet: Fleet) -> None:  # R50
    host = fleet.add("gpu1")
    fleet.supervise(host, [("comfyui", COUNTER)], stdout_logfile_maxbytes="12KB", stdout_logfile_backups="20")
    with fleet.running("logs") as running:
        running.shows(r"\| waiting")
        (host.folder / "go").touch()
        running.shows(r"\| done")
        assert running.interrupt() == 0
        assert numbered(running.out) == [str(number) for number in range(1500)]
        assert running.err == ""
    assert (host.folder / "logs/comfyui.log.5").exists(), "it was rotated often"


class Writer(threading.Thread):
    """Writes numbered lines until told to stop, and rotates the log now and then."""

    def __init__(self, log: Path) -> None:
        super().__init__(daemon=True)
        self.log, self.count, self.stopped = log, 0, threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.005):
            with self.log.open("a") as file:
                file.write(f"line {self.count}\n")
            self.count += 1
            if self.count % 200 == 0:
                rotate(self.log, keep=99)


def test_a_lost_connection_is_taken_up_where_it_was(fleet: Fleet) -> None:  # R50
    host = fleet.add("gpu1")
    writer = Writer(write(fleet, "gpu1", ""))
    with fleet.running("logs", "--lines", "100000") as running:
        writer.start()
        running.shows(r"\| line 50\n")
        assert host.drop_sessions() > 0
        running.shows(r"gpu1 \| -- .*connection was lost; trying again in 1 s")
        running.shows(r"gpu1 \| -- connected again, going on where it was lost")
        assert host.lose() > 0
        running.shows(r"no SSH connection to .*; trying again in")
        host.start()
        until(lambda: running.err.count("connected again") == 2, "it is connected for the second time")
        writer.stopped.set()
        writer.join()
        write(fleet, "gpu1", "done\n")
        running.shows(r"\| done")
        assert running.interrupt() == 0
        assert numbered(running.out) == [str(number) for number in range(writer.count)]


def test_a_host_that_stays_away_ends_it_with_exit_5(fleet: Fleet) -> None:  # R50
    host = fleet.add("gpu1")
    write(fleet, "gpu1", "old\n")
    with fleet.running("logs", "--reconnect", "2") as running:
        running.shows(r"\| old")
        assert host.lose() > 0
        assert running.ended() == 5
        last = running.err.splitlines()[-1]
        assert last.startswith("gpu1 | -- no SSH connection to ")
        assert last.endswith("; given up after 2 s")


def test_a_host_that_is_lost_for_good_does_not_end_the_others(fleet: Fleet) -> None:  # R49
    for name in ("gpu1", "gpu2"):
        fleet.add(name)
        write(fleet, name, "old\n")
    with fleet.running("logs", "--reconnect", "0") as running:
        running.shows(r"gpu1 \| old")
        running.shows(r"gpu2 \| old")
        fleet.hosts["gpu1"].drop_sessions()
        running.shows(r"gpu1 \| -- the connection was lost; given up after 0 s")
        write(fleet, "gpu2", "new\n")
        running.shows(r"gpu2 \| new")
        fleet.hosts["gpu2"].drop_sessions()
        assert running.ended() == 5


def test_a_line_that_has_gone_silent_is_taken_for_lost(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:  # R50
    host = fleet.add("gpu1")
    write(fleet, "gpu1", "old\n")
    for name, value in fleet.environment().items():
        monkeypatch.setenv(name, value)
    seen: list[logs.Line] = []

    def freeze(line: logs.Line) -> None:
        seen.append(line)
        # Not before: the host may be slow to say its first word.
        monkeypatch.setattr(logs, "SILENCE_SECONDS", 2)
        for pid in host.sessions():
            os.kill(pid, signal.SIGSTOP)

    request = logs.Request("comfyui", 5, True, 0)
    failures = logs.follow(choose(Selection(REPO)), Access(Config()), request, freeze, lambda: None)
    assert [line.text for line in seen if not line.remark] == ["old"]
    assert [type(failure) for failure in failures] == [NetworkError]
    assert re.search(r"nothing was heard for \d+ s", str(failures[0]))


def test_a_changed_host_key_is_refused_in_one_sentence(fleet: Fleet) -> None:  # R50
    fleet.add("good")
    write(fleet, "good", "fine\n")
    host = fleet.add("gpu1", running=False)
    host.new_key()
    host.start()
    write(fleet, "gpu1", f"{SECRET} never seen\n")
    before = fleet.known_hosts.read_text()
    for words in ((), ("--accept-new",)):
        code, out, errors = fleet.fab("logs", "--no-follow", *words)
        assert (code, out) == (7, "good | fine\n")
        assert errors.count("\n") == 1
        assert f"gpu1 | -- the host key of [127.0.0.1]:{host.port} has changed" in errors
        assert f"`ssh-keygen -R '[127.0.0.1]:{host.port}'`" in errors
    assert fleet.known_hosts.read_text() == before


def test_a_host_key_that_changes_while_a_log_is_followed_is_refused(fleet: Fleet) -> None:  # R50
    host = fleet.add("gpu1")
    write(fleet, "gpu1", "old\n")
    with fleet.running("logs") as running:
        running.shows(r"\| old")
        assert host.lose() > 0
        host.new_key()
        host.start()
        assert running.ended() == 7
        assert "has changed" in running.err.splitlines()[-1]


def test_an_unknown_host_key_is_refused_until_it_is_accepted(fleet: Fleet) -> None:
    host = fleet.add("gpu1")
    write(fleet, "gpu1", "fine\n")
    fleet.known_hosts.write_text("# kept as it is\nother ssh-ed25519 AAAA")
    code, out, errors = fleet.fab("logs", "--no-follow")
    assert (code, out) == (7, "")
    assert f"the host key of [127.0.0.1]:{host.port} (ssh-ed25519 SHA256:" in errors
    assert "use --accept-new" in errors
    code, out, errors = fleet.fab("logs", "--no-follow", "--accept-new")
    assert (code, out) == (0, "gpu1 | fine\n"), errors
    expected = f"# kept as it is\nother ssh-ed25519 AAAA\n{host.known}"
    assert fleet.known_hosts.read_text() == expected
    assert fleet.fab("logs", "--no-follow")[0] == 0


def test_the_inventory_may_say_that_new_keys_are_accepted_and_not_kept(fleet: Fleet) -> None:
    host = fleet.add("gpu1")
    write(fleet, "gpu1", "fine\n")
    fleet.known_hosts.unlink()
    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    fleet.set("gpu1", ansible_ssh_common_args=options)
    assert fleet.fab("logs", "--no-follow")[:2] == (0, "gpu1 | fine\n")
    assert not fleet.known_hosts.exists()
    # Even so a known key that has changed is refused.
    fleet.set("gpu1", ansible_ssh_common_args="-o StrictHostKeyChecking=no")
    fleet.known_hosts.write_text(host.known)
    host.stop()
    host.new_key()
    host.start()
    assert fleet.fab("logs", "--no-follow")[0] == 7


def test_bad_input_exits_2_with_one_sentence(fleet: Fleet) -> None:
    fleet.add("gpu1", running=False)
    for words, sentence in (
        (["--lines", "few"], "--lines is 'few': give a whole number from 0"),
        (["--on", "nix"], "no host matches 'nix'"),
        (["--inventory", "nix.yml"], "no host matches 'all' in the inventory nix.yml"),
    ):
        code, out, errors = fleet.fab("logs", *words)
        assert (code, out) == (2, "")
        assert sentence in errors
        assert errors.count("\n") == 1


def test_a_program_that_is_not_there_is_named_with_those_that_are(fleet: Fleet) -> None:
    fleet.add("gpu1")
    code, _, errors = fleet.fab("logs", "--program", "nix")
    assert code == 2
    assert errors == "gpu1 | -- there is no program 'nix' on gpu1: choose one of comfyui\n"
