"""`ltxops models add` as a user calls it: what is taken, what is refused, and what a sync makes of it."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.integration.models_support import RunningHub, ltxops
from tests.integration.mounts import mounted, used_bytes
from tests.weights_support import raw, safetensors

from ltxops.embedded.hub import read_repositories
from ltxops.models import manifest

HUB_MANIFEST = """\
version: 1
models:
  open: {repo: owner/open, file: deep/open.safetensors, dest: checkpoints/}
  lora: {repo: owner/lora, file: lora.safetensors, dest: loras/renamed.safetensors}
  folder: {repo: owner/folder, files: ["*.safetensors", "*.json"], dest: text_encoders/folder/}
  gated: {repo: owner/gated, file: gated.safetensors, dest: loras/, gated: true}
  # Not the hub's business.
  link: {url: "https://example.org/x.safetensors", dest: loras/}
profiles: {}
"""
MANIFEST = """\
version: 1
models:
  lora: {repo: owner/lora, file: lora.safetensors, dest: loras/renamed.safetensors}
profiles:
  one: {models: [lora]}
"""

Result = subprocess.CompletedProcess[str]


class Site:
    """A manifest of its own, a root, and a server that is the hub as well as a place of plain downloads."""

    def __init__(self, tmp_path: Path, hub: RunningHub) -> None:
        self.hub = hub
        self.folder = tmp_path / "site"
        self.folder.mkdir()
        self.manifest = self.folder / "models.yaml"
        self.manifest.write_text(MANIFEST, encoding="utf-8")
        self.root = self.folder / "models"
        self.home = tmp_path / "home"
        self.overlay = self.folder / "models.local.yaml"
        self.downloads: dict[str, bytes] = {}
        self.sent = 0
        self.headers: dict[str, str] = {}
        hub.fault = self._serve

    async def _serve(self, request: web.Request) -> web.StreamResponse | None:
        content = self.downloads.get(request.path)
        if content is None:
            return None
        begin, end = 0, len(content)
        span = request.http_range
        if span.start is not None or span.stop is not None:
            begin, end = span.start or 0, min(span.stop or end, end)
        headers = {"Content-Range": f"bytes {begin}-{end - 1}/{len(content)}", **self.headers}
        self.sent += end - begin
        return web.Response(body=content[begin:end], status=206, headers=headers)

    def link(self, name: str, content: bytes) -> str:
        """Serve `content` and return its address."""
        self.downloads[f"/files/{name}"] = content
        return f"{self.hub.url}/files/{name}"

    def run(self, verb: str, *args: str | Path, **environment: str) -> Result:
        return ltxops(verb, *args, "--manifest", self.manifest, home=self.home, **environment)

    def add(self, what: str | Path, *args: str | Path, **environment: str) -> Result:
        return self.run("add", what, "--reserve", "0", *args, **environment)

    def add_from_hub(self, what: str, *args: str | Path, **environment: str) -> Result:
        return self.add(what, "--hub", self.hub.url, *args, **environment)

    def sync(self, root: Path | None = None, profile: str = "one") -> Result:
        options = ("--profile", profile, "--root", root or self.root, "--reserve", "0")
        return self.run("sync", *options, "--hub", self.hub.url, "--json")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    (tmp_path / "models.yaml").write_text(HUB_MANIFEST, encoding="utf-8")
    with RunningHub(tmp_path, token="hf_right") as running:
        yield running


@pytest.fixture
def small_disk(site: "Site") -> Iterator[Path]:
    """Put the root of the site on a disk of 8 MiB."""
    with mounted(site.folder, "tmpfs", "8m") as site.root:
        yield site.root


@pytest.fixture
def site(tmp_path: Path, hub: RunningHub) -> Site:
    return Site(tmp_path, hub)


def told(result: Result) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def test_a_repository_with_one_file_is_enough(site: Site) -> None:
    added = told(site.add_from_hub("owner/open", "--root", site.root, "--json"))
    source = site.hub.file("owner/open/deep/open.safetensors").read_bytes()
    assert added["dest"] == "loras/open.safetensors"
    assert added["sha256"] == hashlib.sha256(source).hexdigest()
    assert (site.root / "loras/open.safetensors").read_bytes() == source
    # It belongs to every profile from now on, also on a host that is synced for the first time.
    other = site.folder / "other"
    assert sorted(told(site.sync(other))["fetched"]) == [
        "loras/open.safetensors",
        "loras/renamed.safetensors",
    ]
    assert told(site.add_from_hub("owner/open", "--root", site.root, "--json"))["changed"] is False


def test_a_page_of_the_hub_is_understood(site: Site) -> None:
    page = f"{site.hub.url}/owner/open/blob/main/deep/open.safetensors"
    added = told(site.add_from_hub(page, "--dest", "loras/x.safetensors", "--name", "x", "--json"))
    assert (added["model"], added["dest"], added["placed"]) == ("x", "loras/x.safetensors", False)
    assert "repo: owner/open" in site.overlay.read_text(encoding="utf-8")


def test_several_files_are_listed_and_one_has_to_be_chosen(site: Site) -> None:
    result = site.add_from_hub("owner/folder", "--root", site.root)
    assert result.returncode == 2
    assert "owner/folder has 5 safetensors files: model-00001-of-00005.safetensors, " in result.stderr
    assert "owner/folder:FILE" in result.stderr
    assert not site.overlay.exists() and not site.root.exists()
    assert told(site.add_from_hub("owner/folder:model-00002-of-00005.safetensors", "--json"))["tensors"]


def test_a_wrong_file_on_the_hub_is_refused_before_it_comes(site: Site) -> None:
    site.hub.file("owner/open/deep/open.safetensors").write_bytes(b"PK\x03\x04" + bytes(20_000_000))
    wanted = manifest.load(site.hub.manifest_path)
    site.hub.repositories.update(read_repositories(wanted, site.hub.folder))
    result = site.add_from_hub("owner/open", "--root", site.root)
    assert result.returncode == 2
    assert "pickle by its content" in result.stderr
    assert not site.overlay.exists() and not site.root.exists()


def test_a_gate_is_named(site: Site) -> None:
    # R28
    result = site.add_from_hub("owner/gated", "--root", site.root)
    assert result.returncode == 7
    assert "owner/gated is gated" in result.stderr and f"{site.hub.url}/owner/gated" in result.stderr
    assert site.add_from_hub("owner/gated:gated.safetensors").returncode == 7
    assert not site.overlay.exists()
    assert site.add_from_hub("owner/gated", HF_TOKEN="hf_right").returncode == 0


def test_the_token_is_not_sent_to_another_host(tmp_path: Path) -> None:
    # R24
    (tmp_path / "cdn").mkdir()
    with (
        RunningHub(tmp_path / "cdn") as cdn,
        RunningHub(tmp_path, token="hf_right", cdn_url=cdn.url) as hub,
    ):
        site = Site(tmp_path, hub)
        assert site.add_from_hub("owner/gated", HF_TOKEN="hf_right").returncode == 0
        assert any(headers.get("authorization") == "Bearer hf_right" for headers in hub.headers)
        assert cdn.requests
        assert not any("authorization" in headers for headers in cdn.headers)


def test_a_link_needs_a_hash_or_trust(site: Site) -> None:
    content = safetensors()
    url = site.link("plain.safetensors", content)
    refused = site.add(url, "--root", site.root)
    assert refused.returncode == 2
    assert "--sha256 HEX" in refused.stderr and "--trust-first-use" in refused.stderr
    assert site.add(url, "--trust-first-use").returncode == 2
    assert site.hub.requests == []
    added = told(site.add(url, "--trust-first-use", "--root", site.root, "--json"))
    assert added["sha256"] == hashlib.sha256(content).hexdigest()
    assert (site.root / "loras/plain.safetensors").read_bytes() == content
    assert list((site.root / ".ltxops/incoming").iterdir()) == []
    # Another host gets the same bytes or none.
    assert "loras/plain.safetensors" in told(site.sync(site.folder / "second"))["fetched"]
    site.link("plain.safetensors", safetensors(b"x" * 4096))
    third = site.sync(site.folder / "third")
    assert third.returncode == 3 and "loras/plain.safetensors" in third.stderr
    assert not (site.folder / "third/loras/plain.safetensors").exists()
    assert (site.folder / "third/loras/renamed.safetensors").exists()


def test_a_link_with_its_hash_is_pinned_without_being_fetched(site: Site) -> None:
    content = safetensors(bytes(3_000_000))
    url = site.link("big.safetensors", content)
    digest = hashlib.sha256(content).hexdigest()
    assert told(site.add(url, "--sha256", digest.upper(), "--json"))["sha256"] == digest
    assert site.sent <= 1024 * 1024
    told(site.sync())
    assert (site.root / "loras/big.safetensors").read_bytes() == content


def test_a_wrong_hash_leaves_neither_file_nor_entry(site: Site) -> None:
    # R15
    url = site.link("plain.safetensors", safetensors())
    result = site.add(url, "--sha256", "0" * 64, "--root", site.root)
    assert result.returncode == 3
    assert not (site.root / "loras/plain.safetensors").exists()
    assert list((site.root / ".ltxops/incoming").iterdir()) == []
    assert not site.overlay.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.safetensors", b"<!DOCTYPE html><html>Log in</html>", "web page"),
        ("a.safetensors", b"\x80\x02}q\x00." + bytes(100), "pickle by its content"),
        ("a.safetensors", raw("{}", bytes(9)), "tensors take 0 bytes, but it has 9"),
        ("a.ckpt", safetensors(), "pickle by its name"),
        ("12345", safetensors(), "gives the file no name"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(site: Site, name: str, content: bytes, message: str) -> None:
    # R19
    result = site.add(site.link(name, content), "--trust-first-use", "--root", site.root)
    assert result.returncode == 2
    assert message in result.stderr
    assert not site.root.exists() and not site.overlay.exists()


def test_a_link_without_a_name_takes_that_of_the_server(site: Site) -> None:
    url = site.link("12345", safetensors())
    site.headers = {"Content-Disposition": 'attachment; filename="some name.safetensors"'}
    added = told(site.add(url, "--trust-first-use", "--root", site.root, "--json"))
    assert (added["model"], added["dest"]) == ("some-name", "loras/some name.safetensors")
    told(site.sync(site.folder / "second"))


def test_plain_http_is_refused_before_any_network(site: Site) -> None:
    result = site.add("http://example.invalid/a.safetensors", "--sha256", "0" * 64)
    assert result.returncode == 2
    assert "plain http" in result.stderr


@pytest.mark.parametrize(
    ("location", "code", "message"),
    [
        ("http://example.invalid/a.safetensors", 2, "redirects to plain http"),
        ("/files/again.safetensors", 5, "redirects more than 5 times"),
        ("/files/plain.safetensors", 0, ""),
    ],
)
def test_redirects_are_followed_a_few_times_and_never_to_plain_http(
    site: Site, location: str, code: int, message: str
) -> None:
    site.link("plain.safetensors", safetensors())

    async def redirect(request: web.Request) -> web.StreamResponse | None:
        if request.path != "/files/again.safetensors":
            return await site._serve(request)
        return web.Response(status=302, headers={"Location": location})

    site.hub.fault = redirect
    result = site.add(
        f"{site.hub.url}/files/again.safetensors", "--trust-first-use", "--root", site.root, "--json"
    )
    assert result.returncode == code, result.stderr
    assert message in result.stderr


def test_a_link_that_is_gone_or_closed_is_told_apart(site: Site) -> None:
    statuses = {"/files/gone.safetensors": 404, "/files/closed.safetensors": 403}

    async def refuse(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=statuses[request.path])

    site.hub.fault = refuse
    codes = [site.add(f"{site.hub.url}{path}", "--sha256", "0" * 64).returncode for path in statuses]
    assert codes == [2, 7]


@pytest.mark.parametrize("damage", ["whole again", "cut", "busy"])
def test_a_passing_fault_of_a_link_is_survived(site: Site, damage: str) -> None:
    # R18, R23
    content = safetensors(bytes(range(256)) * 8192)
    url = site.link("plain.safetensors", content)
    asked = 0

    async def faulty(request: web.Request) -> web.StreamResponse | None:
        nonlocal asked
        if not request.path.startswith("/files/"):
            return None
        asked += 1
        if asked != 2:
            return await site._serve(request)
        if damage == "busy":
            return web.Response(status=503, headers={"Retry-After": "0"})
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[:1_500_000])
        if damage == "cut":
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(content[1_500_000:])
        return response

    site.hub.fault = faulty
    told(site.add(url, "--trust-first-use", "--root", site.root, "--json"))
    assert (site.root / "loras/plain.safetensors").read_bytes() == content


def test_a_body_longer_than_promised_is_bounded(site: Site) -> None:
    # R19
    content = safetensors()
    url = site.link("plain.safetensors", content)
    told(site.add(url, "--sha256", hashlib.sha256(content).hexdigest(), "--json"))

    async def endless(request: web.Request) -> web.StreamResponse | None:
        if not request.path.startswith("/files/"):
            return None
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(40):
            await response.write(content)
        return response

    site.hub.fault = endless
    result = site.sync()
    assert result.returncode == 3 and f"more than the {len(content)} bytes" in result.stderr
    assert list((site.root / ".ltxops/incoming").iterdir()) == []


def test_a_disk_that_is_too_small_is_named_before_the_first_byte(site: Site, small_disk: Path) -> None:
    # R20
    url = site.link("big.safetensors", safetensors(bytes(9_000_000)))
    result = site.add(url, "--trust-first-use", "--root", site.root)
    assert result.returncode == 4 and "short" in result.stderr
    assert site.sent <= 1024 * 1024 and not site.overlay.exists()


def test_a_disk_that_fills_up_in_the_middle_loses_nothing(site: Site, small_disk: Path) -> None:
    # R21
    content = safetensors(bytes(range(256)) * 20_000)
    url = site.link("big.safetensors", content)
    told(site.sync())
    filler = small_disk / "filler"

    async def fill(request: web.Request) -> web.StreamResponse | None:
        if request.path.startswith("/files/") and "range" not in request.headers:
            filler.write_bytes(bytes(6_000_000))
        return await site._serve(request)

    site.hub.fault = fill
    proof = ("--sha256", hashlib.sha256(content).hexdigest(), "--root", site.root)
    full = site.add(url, *proof)
    assert full.returncode == 4 and "filled up while loras/big.safetensors arrived" in full.stderr
    assert not (small_disk / "loras/big.safetensors").exists() and not site.overlay.exists()
    site.hub.fault = site._serve
    filler.unlink()
    site.sent = 0
    told(site.add(url, *proof, "--json"))
    assert (small_disk / "loras/big.safetensors").read_bytes() == content
    assert told(site.sync())["present"] == 2


def test_a_file_at_hand_is_copied_and_its_hash_kept(site: Site) -> None:
    source = site.folder / "mine.safetensors"
    source.write_bytes(safetensors())
    added = told(site.add(source, "--root", site.root, "--to-profile", "one", "--json"))
    assert added["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert (site.root / "loras/mine.safetensors").read_bytes() == source.read_bytes()
    assert site.hub.requests == []
    source.unlink()
    assert told(site.sync())["present"] == 1
    elsewhere = site.sync(site.folder / "elsewhere")
    assert elsewhere.returncode == 1
    assert f"comes from {source} on the machine where it was added" in elsewhere.stderr


def test_a_file_at_hand_costs_no_second_copy_where_blocks_can_be_shared(site: Site, tmp_path: Path) -> None:
    with mounted(tmp_path, "xfs", "400M") as disk:
        source, placed = disk / "mine.safetensors", disk / "models/loras/mine.safetensors"
        content = safetensors(os.urandom(9_000_000))
        source.write_bytes(content)
        before, stat = used_bytes(disk), os.statvfs(disk)
        # With nothing to spare: a reflink needs no space.
        reserve = ("--reserve", f"{stat.f_bavail * stat.f_frsize}B")
        told(site.add(source, "--root", disk / "models", "--to-profile", "one", "--json", *reserve))
        assert used_bytes(disk) - before < len(content) // 2
        source.write_bytes(b"changed afterwards")
        assert placed.read_bytes() == content
        # Nor is a file taken that is no longer the one that was added.
        placed.unlink()
        assert site.sync(disk / "models").returncode == 3
        assert not placed.exists()


def test_a_file_that_lies_in_the_root_already_stays_where_it_is(site: Site) -> None:
    source = site.root / "vae/mine.safetensors"
    source.parent.mkdir(parents=True)
    source.write_bytes(safetensors())
    inode = source.stat().st_ino
    assert told(site.add(source, "--root", site.root, "--json"))["dest"] == "vae/mine.safetensors"
    assert source.stat().st_ino == inode


@pytest.mark.parametrize("known", [True, False])
def test_a_file_of_somebody_else_is_never_replaced(site: Site, known: bool) -> None:
    theirs = site.root / "loras/plain.safetensors"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"precious")
    content = safetensors()
    proof = ("--sha256", hashlib.sha256(content).hexdigest()) if known else ("--trust-first-use",)
    result = site.add(site.link("plain.safetensors", content), *proof, "--root", site.root)
    assert result.returncode == 2
    assert f"there is another file at {theirs}" in result.stderr
    assert theirs.read_bytes() == b"precious"


def test_what_an_earlier_sync_left_unfinished_stays(site: Site) -> None:
    # R17
    (site.root / ".ltxops/incoming").mkdir(parents=True)
    part = site.root / ".ltxops/incoming/big.safetensors.0123456789abcdef.part"
    part.write_bytes(b"gigabytes")
    told(site.add_from_hub("owner/open", "--root", site.root, "--json"))
    assert part.read_bytes() == b"gigabytes"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("o/r", "--dest", "../x.safetensors"), "contains '..'"),
        (("o/r", "--dest", "/x.safetensors"), "is an absolute path"),
        (("o/r", "--dest", ".ltxops/"), "belongs to ltxops"),
        (("o/r", "--dest", "loras/x.pt"), "pickle by its name"),
        (("o/r", "--name", "a b"), "is not a model name"),
        (("o/r", "--sha256", "abc"), "64 hexadecimal digits"),
        (("o/r", "--to-profile", "oen"), "did you mean 'one'?"),
        (("o/r:a.ckpt",), "pickle by its name"),
        (("o/r", "--trust-first-use", "--root", "models"), "is for links"),
        (("absent.safetensors",), "is not a file"),
        (("o/r/x",), "is not OWNER/REPO"),
    ],
)
def test_wrong_input_is_named_before_any_network(site: Site, args: tuple[str, ...], message: str) -> None:
    # R25
    result = site.add_from_hub(*args)
    assert result.returncode == 2
    assert message in result.stderr
    assert site.hub.requests == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--name", "lora"), "model 'lora' is in"),
        (("--dest", "loras/renamed.safetensors"), "same destination loras/renamed.safetensors"),
    ],
)
def test_a_name_or_place_of_the_manifest_is_refused(site: Site, args: tuple[str, ...], message: str) -> None:
    # R25
    result = site.add_from_hub("owner/open", "--root", site.root, *args)
    assert result.returncode == 2
    assert message in result.stderr
    assert not site.overlay.exists() and not site.root.exists()
