"""Hosts for the tasks of fabfile.py: real sshds on loopback, and folders like those of provisioned hosts."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support import free_port as free_port
from tests.support import wait_for

from ltxops.errors import CheckFailed
from ltxops.upkeep.supervisor import processes

REPO = Path(__file__).parents[2]
FAB = Path(sys.executable).with_name("fab")
#: Appears in every inventory below, and must appear nowhere else.
SECRET = "s3cr3t-token-of-the-gateway"

#: Answers with its name on every path.
SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{sys.argv[2]} says hello".encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
print("listening", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def until(check: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    return wait_for(check, seconds, lambda: f"not within {seconds:g} s: {what}")


class Sshd:
    """A host behind an sshd of its own. `folder` is what lies under `ltxops_root` there."""

    def __init__(self, name: str, folder: Path, authorized: Path) -> None:
        self.name = name
        self.folder = folder
        self.port = free_port()
        self.programs: list[dict[str, Any]] = []
        self._authorized = authorized
        self._process: subprocess.Popen[bytes] | None = None
        for part in ("etc", "home", "logs", "ssh"):
            (folder / part).mkdir(parents=True)
        (folder / "home/venv").symlink_to(sys.prefix)
        self.new_key()

    def new_key(self) -> None:
        key = self.folder / "ssh/host_key"
        key.unlink(missing_ok=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, input=b"y\n"
        )

    @property
    def known(self) -> str:
        """The line that known_hosts has for this host."""
        kind, key, *_ = (self.folder / "ssh/host_key.pub").read_text().split()
        return f"[127.0.0.1]:{self.port} {kind} {key}\n"

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        configuration = self.folder / "ssh/sshd_config"
        configuration.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder}/ssh/host_key\n"
            f"AuthorizedKeysFile {self._authorized}\nPidFile none\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nPermitRootLogin yes\nMaxStartups 100\nUseDNS no\n"
        )
        sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
        assert sshd, "openssh-server is missing; scripts/test installs it"
        command = [sshd, "-D", "-e", "-f", str(configuration)]
        log = (self.folder / "ssh/sshd.log").open("ab")
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        until(self._listens, f"sshd of {self.name} listens")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """Stop listening; sessions go on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def drop_sessions(self) -> int:
        """Kill the processes that hold the connections, as a broken line would."""
        return _kill(self.sessions())

    def lose(self) -> int:
        """Drop the sessions and take no new one, as a host that goes down."""
        sessions = self.sessions()
        self.stop()
        return _kill(sessions)

    def sessions(self) -> list[int]:
        """Return the processes that hold the connections."""
        below = descendants(self._process.pid) if self._process else []
        return [pid for pid in below if b"sshd" in _command(pid)]

    def describe(self, supervisor_socket: Path | None = None) -> None:
        """Write host.json."""
        content = {
            "name": self.name,
            "scope": "user",
            "url": "http://127.0.0.1:1",
            "token_file": str(self.folder / "etc/token"),
            "supervisor": {"socket": str(supervisor_socket or self.folder / "none.sock")},
            "programs": self.programs,
        }
        (self.folder / "etc/host.json").write_text(json.dumps(content))
        (self.folder / "etc/token").write_text(SECRET)

    def program(self, name: str, address: str = "", health: str | None = None) -> Path:
        """Add a program; returns its log."""
        log = self.folder / f"logs/{name}.log"
        check = {"url": health, "status": 200} if health else None
        self.programs.append({"name": name, "address": address, "health": check, "log": str(log)})
        return log


class Fleet:
    """Hosts, the inventory that names them, and an operator with a key and a home of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "operator"
        (self.home / ".ssh").mkdir(parents=True, mode=0o700)
        self.key = self.home / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        self.hosts: dict[str, Sshd] = {}
        self.groups: dict[str, list[str]] = {}
        self._extra: dict[str, dict[str, Any]] = {}
        self._supervisors: list[tuple[subprocess.Popen[bytes], Path, Path]] = []

    @property
    def known_hosts(self) -> Path:
        return self.home / ".ssh/known_hosts"

    def add(self, name: str, group: str = "gpus", running: bool = True) -> Sshd:
        host = Sshd(name, self.folder / name, self.key.with_suffix(".pub"))
        host.program("comfyui")
        host.describe()
        self.hosts[name] = host
        self.groups.setdefault(group, []).append(name)
        with self.known_hosts.open("a") as file:
            file.write(host.known)
        if running:
            host.start()
        return host

    def set(self, name: str, **variables: Any) -> None:
        self._extra.setdefault(name, {}).update(variables)

    def inventory(self) -> Path:
        """Write the inventory: what all share as group variables with a template, the rest by host."""
        groups: dict[str, Any] = {}
        for group, names in self.groups.items():
            members = {}
            for name in names:
                host = {"ansible_port": self.hosts[name].port, "ltxops_root": str(self.folder / name)}
                members[name] = {**host, **self._extra.get(name, {})}
            groups[group] = {"hosts": members}
        everywhere = {
            "ansible_host": "127.0.0.1",
            "ansible_ssh_private_key_file": "{{ inventory_dir }}/operator/key",
            "ltxops_scope": "user",
            "gateway_token": SECRET,
        }
        file = self.folder / "hosts.json"
        file.write_text(json.dumps({"all": {"vars": everywhere, "children": groups}}))
        return file

    def environment(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("SSH_", "ANSIBLE_"))
        }
        return {**kept, "HOME": str(self.home), "LTXOPS_INVENTORY": str(self.inventory())}

    def fab(self, *words: str, seconds: float = 60) -> tuple[int, str, str]:
        done = subprocess.run(
            [str(FAB), *words],
            cwd=REPO,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        assert SECRET not in done.stdout + done.stderr  # R30
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    @contextmanager
    def running(self, *words: str) -> Iterator["Running"]:
        one = Running(self.folder, [str(FAB), *words], self.environment())
        try:
            yield one
        finally:
            one.kill()

    def supervise(self, host: Sshd, code: Sequence[tuple[str, str]], **settings: str) -> dict[str, int]:
        """Run programs of `(name, code)` on the host under supervisord; returns their ports."""
        # A socket's path has at most 107 bytes.
        folder = Path(tempfile.mkdtemp(prefix="sv-"))
        path, ports = folder / "s.sock", {}
        host.programs.clear()
        sections = ""
        for name, text in code:
            ports[name] = free_port()
            address = f"127.0.0.1:{ports[name]}"
            log = host.program(name, address, f"http://{address}/")
            (host.folder / f"{name}.py").write_text(text)
            sections += (
                f"[program:{name}]\n"
                f"command={sys.executable} {host.folder}/{name}.py {ports[name]} {name}@{host.name}\n"
                f"stdout_logfile={log}\nredirect_stderr=true\nstartsecs=1\nstartretries=1\n"
            )
            sections += "".join(f"{key}={value}\n" for key, value in settings.items())
        host.describe(path)
        configuration = folder / "s.conf"
        configuration.write_text(
            f"[unix_http_server]\nfile={path}\n[supervisord]\nlogfile={folder}/s.log\npidfile={folder}/s.pid\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n" + sections
        )
        command = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(configuration)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._supervisors.append((process, path, folder))
        return ports

    def close(self) -> None:
        for host in self.hosts.values():
            host.lose()
        for process, path, folder in self._supervisors:
            with suppress(CheckFailed):
                for pid in {one.pid for one in processes(path, "user").values()} - {0}:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            process.kill()
            process.wait()
            shutil.rmtree(folder)


class Running:
    """A `fab` that goes on: what it has printed so far, and Ctrl-C."""

    def __init__(self, folder: Path, command: list[str], environment: dict[str, str]) -> None:
        self._out, self._err = folder / "fab.out", folder / "fab.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                command, cwd=REPO, env=environment, stdout=out, stderr=err, stdin=subprocess.DEVNULL
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def shows(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """Wait until stdout or stderr has a match."""

        def look() -> re.Match[str] | None:
            ended = self._process.poll() is not None
            text = self.out + self.err
            found = re.search(pattern, text)
            assert found or not ended, f"it has ended:\n{text}"
            return found

        try:
            found: re.Match[str] = until(look, pattern, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.out}{self.err}") from None
        return found

    def interrupt(self) -> int:
        self._process.send_signal(signal.SIGINT)
        return self.ended()

    def ended(self, seconds: float = 60) -> int:
        code = self._process.wait(seconds)
        assert SECRET not in self.out + self.err  # R30
        assert "Traceback" not in self.err, self.err
        return code

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        found = [int(word) for word in children.read_text().split()]
    except OSError:
        return []
    return found + [below for child in found for below in descendants(child)]


def _kill(pids: list[int]) -> int:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
