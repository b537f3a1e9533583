"""The embedded hub: Hugging Face's own library must find in it what it finds in the real one."""

import json
import signal
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import get_hf_file_metadata
from huggingface_hub.hf_api import RepoFile
from tests.integration.models_support import RunningHub

from ltxops.embedded.hub import read_repositories, write_missing
from ltxops.models import manifest
from ltxops.models.lock import load

REPOSITORY = Path(__file__).parents[2]
DEMO = REPOSITORY / "inventory/demo/models.yaml"
SERVE = "import sys; from pathlib import Path; from ltxops.embedded.hub import serve; " + (
    "from ltxops.cli.output import log; from ltxops.errors import LtxopsError\n"
    "try: sys.exit(serve(Path(sys.argv[1]), Path(sys.argv[2]), '127.0.0.1', int(sys.argv[3]), None))\n"
    "except LtxopsError as error: log(str(error)); sys.exit(error.exit_code)"
)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with RunningHub(tmp_path, token="hf_right") as running:
        yield running


def metadata(hub: RunningHub, repo: str, path: str, **arguments: Any) -> Any:
    url = hf_hub_url(repo, path, endpoint=hub.url, revision=arguments.pop("revision", None))
    return get_hf_file_metadata(url, token=arguments.pop("token", False))


def test_metadata_of_large_and_small_files(hub: RunningHub) -> None:
    commit = hub.repositories["owner/folder"].commit
    large = metadata(hub, "owner/folder", "model-00001-of-00005.safetensors")
    assert (large.commit_hash, len(large.etag)) == (commit, 64)
    assert large.size == hub.file("owner/folder/model-00001-of-00005.safetensors").stat().st_size
    small = metadata(hub, "owner/folder", "config.json", revision=commit)
    assert (small.commit_hash, len(small.etag)) == (commit, 40)
    assert small.size == hub.file("owner/folder/config.json").stat().st_size


def test_the_library_downloads_a_file_and_a_snapshot(hub: RunningHub, tmp_path: Path) -> None:
    path = hf_hub_download(
        "owner/open", "deep/open.safetensors", endpoint=hub.url, local_dir=tmp_path / "one", token=False
    )
    assert Path(path).read_bytes() == hub.file("owner/open/deep/open.safetensors").read_bytes()
    folder = Path(
        snapshot_download("owner/folder", endpoint=hub.url, local_dir=tmp_path / "all", token=False)
    )
    for source in hub.file("owner/folder").iterdir():
        assert (folder / source.name).read_bytes() == source.read_bytes()


def test_large_files_are_redirected_to_a_cdn_with_ranges(hub: RunningHub) -> None:
    url = hf_hub_url("owner/lora", "lora.safetensors", endpoint=hub.url)
    request = urllib.request.Request(url, headers={"Range": "bytes=100-199"})
    with urllib.request.urlopen(request) as answer:
        content = hub.file("owner/lora/lora.safetensors").read_bytes()
        assert answer.status == 206
        assert "/cdn/owner/lora/" in answer.url
        assert answer.headers["Content-Range"] == f"bytes 100-199/{len(content)}"
        assert answer.read() == content[100:200]
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(url, headers={"Range": f"bytes={10**9}-"}))
    assert caught.value.code == 416
    caught.value.close()


def test_the_listing_tells_hashes(hub: RunningHub) -> None:
    api = HfApi(endpoint=hub.url, token=False)
    info = api.model_info("owner/folder")
    assert (info.sha, info.gated) == (hub.repositories["owner/folder"].commit, False)
    assert api.model_info("owner/gated").gated == "auto"
    tree = api.list_repo_tree("owner/folder", recursive=True)
    files = {item.path: item for item in tree if isinstance(item, RepoFile)}
    assert set(files) == {path.name for path in hub.file("owner/folder").iterdir()}
    entry = hub.repositories["owner/folder"].files["tokenizer.json"]
    lfs = files["tokenizer.json"].lfs
    assert lfs is not None and (lfs.sha256, lfs.size) == (entry.sha256, entry.size)
    assert files["config.json"].lfs is None


def test_refusals_are_those_that_the_library_knows(hub: RunningHub) -> None:
    # R28
    with pytest.raises(GatedRepoError) as gated:
        metadata(hub, "owner/gated", "gated.safetensors")
    assert gated.value.response.status_code == 401
    with pytest.raises(RepositoryNotFoundError) as hidden:
        metadata(hub, "owner/absent", "x")
    assert hidden.value.response.status_code == 401
    with pytest.raises(RepositoryNotFoundError) as absent:
        metadata(hub, "owner/absent", "x", token="hf_right")
    assert absent.value.response.status_code == 404
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as wrong:
        metadata(hub, "owner/lora", "lora.safetensors", token="hf_wrong")
    assert wrong.value.response.status_code == 401
    with pytest.raises(RevisionNotFoundError):
        metadata(hub, "owner/lora", "lora.safetensors", revision="v9")
    with pytest.raises(EntryNotFoundError):
        metadata(hub, "owner/lora", "absent.safetensors")
    assert metadata(hub, "owner/gated", "gated.safetensors", token="hf_right").size > 0


def test_nothing_outside_the_folder_is_served(hub: RunningHub, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    for path in ("../../../secret", "..%2f..%2f..%2fsecret", "%2fetc%2fpasswd"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{hub.url}/owner/lora/resolve/main/{path}")
        assert caught.value.code == 404
        caught.value.close()


def test_the_demo_files_are_valid_distinct_and_say_what_they_are(tmp_path: Path) -> None:
    write_missing(manifest.load(DEMO), tmp_path)
    seen: set[bytes] = set()
    for path in sorted(tmp_path.rglob("*.safetensors")):
        content = path.read_bytes()
        (length,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8 : 8 + length])
        assert "stand-in" in header.pop("__metadata__")["note"]
        [tensor] = header.values()
        assert tensor["dtype"] == "U8"
        assert tensor["data_offsets"] == [0, tensor["shape"][0]]
        assert len(content) == 8 + length + tensor["shape"][0] < 16384
        seen.add(content[8 + length :])
    assert len(seen) == len(list(tmp_path.rglob("*.safetensors"))) > 20
    index = next(tmp_path.rglob("model.safetensors.index.json"))
    for shard in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values():
        assert (index.parent / shard).exists()
    for path in tmp_path.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))


def test_the_committed_demo_lock_is_what_the_hub_makes_on_any_machine(tmp_path: Path) -> None:
    demo = manifest.load(DEMO)
    write_missing(demo, tmp_path)
    repositories = read_repositories(demo, tmp_path)
    for name, entry in load(demo).items():
        repository = repositories[entry.repo]
        assert entry.revision == repository.commit, (
            f"{name}: run `ltxops models lock` against the embedded hub"
        )
        for file in entry.files:
            served = repository.files[file.path]
            assert (file.size, file.sha256 or file.git_blob) == (served.size, served.etag)


def test_it_says_that_it_is_a_stand_in_and_ends_on_sigterm(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", SERVE, str(DEMO), str(tmp_path / "hub")]
    with subprocess.Popen(
        [*arguments, "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith("embedded hub (stand-in for Hugging Face, tiny files): http://127.0.0.1:")
        url = line.split(": ")[1].strip()
        with urllib.request.urlopen(f"{url}/") as answer:
            assert "stand-in" in answer.read().decode()

        port = url.rsplit(":", 1)[1]
        second = subprocess.run([*arguments, port], capture_output=True, text=True, timeout=30)
        assert second.returncode == 1
        assert f"port {port} on 127.0.0.1 is taken" in second.stderr

        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert all("stand-in" in line for line in process.stderr)
