"""The lock: what is written is read back, and nothing in it is taken on trust."""

import re
from pathlib import Path

import pytest

from ltxops.errors import BadInput
from ltxops.models import lock, manifest
from ltxops.models.lock import LockedFile, LockedModel

REPOSITORY = Path(__file__).parents[2]
COMMIT = "47da56e2ad66ce4125a9922b4a8826bf407f9d0a"
SHA256 = "8a67e709b6d1adc061cb19921887a5c15754178199e45801a04310e9b522760d"

MANIFEST = """\
version: 1
models:
  one: {repo: owner/one, file: one.safetensors, dest: loras/}
  many: {repo: owner/many, files: ["*.json", "*.model"], dest: text_encoders/many/, revision: v2}
profiles:
  all: {models: [one, many]}
"""

LOCK = f"""\
version: 1
models:
  one:
    repo: owner/one
    revision: {COMMIT}
    files:
      - path: one.safetensors
        size: 12
        sha256: {SHA256}
"""


@pytest.fixture
def wanted(tmp_path: Path) -> manifest.Manifest:
    path = tmp_path / "models.yaml"
    path.write_text(MANIFEST, encoding="utf-8")
    return manifest.load(path)


def test_round_trip_in_the_order_of_the_manifest(wanted: manifest.Manifest) -> None:
    digits = "1" * 40
    many = LockedModel(
        "owner/many",
        digits,
        ("*.json", "*.model"),
        "v2",
        (LockedFile("a.json", 3, git_blob=digits), LockedFile("t.model", 0, sha256="0" * 64)),
    )
    one = LockedModel(
        "owner/one", COMMIT, ("one.safetensors",), None, (LockedFile("one.safetensors", 9, SHA256),)
    )
    path = lock.lock_path(wanted.path)
    lock.save(path, {"many": many, "one": one}, wanted)
    assert lock.load(wanted) == {"one": one, "many": many}
    text = path.read_text(encoding="utf-8")
    assert text.index("one:") < text.index("many:")
    lock.save(path, {"one": one, "many": many}, wanted)
    assert path.read_text(encoding="utf-8") == text


def test_no_lock_means_nothing_is_locked(wanted: manifest.Manifest) -> None:
    assert lock.load(wanted) == {}
    with pytest.raises(BadInput, match="not locked: one, many; run `ltxops models lock`"):
        lock.require(wanted.profile("all"), {}, lock.lock_path(wanted.path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (SHA256, SHA256[:-1], "sha256 of 64 hexadecimal digits"),
        (SHA256, SHA256.upper(), "sha256 of 64 hexadecimal digits"),
        (SHA256, "null", "or there must be a git_blob"),
        (COMMIT, "main", "commit of 40 hexadecimal digits"),
        ("size: 12", "size: -1", "must be a whole number of 0 or more"),
        ("size: 12", "size: many", "must be a whole number"),
        ("path: one.safetensors", "path: ../one.safetensors", "contains '..'"),
        ("        size: 12\n", "", "key 'size' is missing"),
        ("    files:", "    fils:", "unknown key 'fils'; did you mean 'files'?"),
        ("repo: owner/one", "repo: owner/other", "does not fit"),
        ("path: one.safetensors", "path: two.safetensors", "does not fit"),
        ("version: 1", "version: 2", "a newer ltxops"),
    ],
)
def test_a_damaged_or_stale_lock_is_refused(
    wanted: manifest.Manifest, old: str, new: str, message: str
) -> None:
    assert old in LOCK
    lock.lock_path(wanted.path).write_text(LOCK.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BadInput, match=re.escape(message)):
        lock.load(wanted)


def test_the_committed_lock_is_whole_and_of_this_manifest() -> None:
    real = manifest.load(REPOSITORY / "models.yaml")
    locked = lock.load(real)
    assert locked
    assert set(locked) <= set(real.models)
    for name, entry in locked.items():
        for file in entry.files:
            assert file.sha256 is not None, name
            assert file.size > 1_000_000, name


def test_the_demo_lock_covers_every_model() -> None:
    demo = manifest.load(REPOSITORY / "inventory/demo/models.yaml")
    assert lock.missing_from(list(demo.models.values()), lock.load(demo)) == []
