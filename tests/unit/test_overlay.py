"""The overlay: as strict as the manifest, on top of it, and never against it."""

import threading
from pathlib import Path

import pytest

from ltxops.errors import BadInput
from ltxops.models import lock, manifest, overlay
from ltxops.models.lock import LockedFile, LockedModel
from ltxops.models.model import Model

MANIFEST = """\
version: 1
models:
  one: {repo: o/one, file: one.safetensors, dest: loras/}
  many: {repo: o/many, files: ["*.json"], dest: text_encoders/many/}
profiles:
  small: {models: [one]}
  large: {extends: [small], models: [many]}
"""

OVERLAY = """\
version: 1
models:
  link:
    url: https://example.org/link.safetensors
    dest: loras/
  hand:
    path: /data/hand.safetensors
    dest: loras/renamed.safetensors
profiles:
  local: {models: [link]}
  small:
    models: [hand]
"""

LOCK = f"""\
version: 1
models:
  link:
    url: https://example.org/link.safetensors
    files:
      - path: link.safetensors
        size: 3
        sha256: {"a" * 64}
  hand:
    path: /data/hand.safetensors
    files:
      - path: renamed.safetensors
        size: 4
        sha256: {"b" * 64}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "models.yaml").write_text(MANIFEST, encoding="utf-8")
    return tmp_path / "models.yaml"


def write(path: Path, text: str = OVERLAY, locked: str = LOCK) -> None:
    path.with_name("models.local.yaml").write_text(text, encoding="utf-8")
    path.with_name("models.local.lock.yaml").write_text(locked, encoding="utf-8")


def names(loaded: manifest.Manifest, profile: str) -> list[str]:
    return [model.name for model in loaded.profile(profile)]


def link(name: str = "link", dest: str = "loras/link.safetensors") -> tuple[Model, LockedModel]:
    url = f"https://example.org/{name}.safetensors"
    file = dest.rsplit("/", 1)[-1]
    entry = LockedModel("", "", (file,), None, (LockedFile(file, 3, "a" * 64),), url=url)
    return Model(name, "", file, (), dest, url=url), entry


def test_without_one_the_manifest_stands_alone(path: Path) -> None:
    assert overlay.load(path) == manifest.load(path)


def test_it_adds_to_profiles_and_local_is_in_all_of_them(path: Path) -> None:
    write(path)
    loaded = overlay.load(path)
    assert names(loaded, "small") == ["one", "hand", "link"]
    assert names(loaded, "large") == ["one", "hand", "link", "many"]
    assert names(loaded, "local") == ["link"]
    assert loaded.models["hand"].destination("renamed.safetensors") == "loras/renamed.safetensors"
    assert set(lock.load(loaded)) == {"link", "hand"}
    assert manifest.load(path).local == frozenset()


# R25
@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("  link:\n", "  one:\n", 4, "model 'one' is in"),
        ("dest: loras/\n", "dest: loras/one.safetensors\n", 4, "'one' and 'link' have the same destination"),
        ("dest: loras/\n", "dest: text_encoders/many/x.json\n", 4, "among the files of 'many'"),
        (
            "dest: loras/\n",
            "dest: loras/renamed.safetensors\n",
            7,
            "'link' and 'hand' have the same destination",
        ),
        ("dest: loras/\n", "dest: ../x\n", 5, "contains '..'"),
        ("dest: loras/\n", "dest: /x\n", 5, "is an absolute path"),
        ("dest: loras/\n", "dst: loras/\n", 5, "unknown key 'dst'; did you mean 'dest'?"),
        ("dest: loras/\n", "dest: loras/\n    repo: o/r\n", 4, "one of 'repo', 'url' and 'path'"),
        ("dest: loras/\n", "dest: loras/\n    gated: true\n", 6, "is for a file of a repository"),
        ("link.safetensors", "", 5, "must name the file"),
        ("https://example.org/l", "http://example.org/l", 4, "is plain http"),
        ("https://example.org/l", "https://u:p@example.org/l", 4, "carries a user name"),
        ("/data/hand", "data/hand", 7, "must be the absolute path"),
        ("[link]", "[lnk]", 10, "model 'lnk' is not defined; did you mean 'link'?"),
        ("{models: [link]}", "{models: [link], extends: [small]}", 10, "it can extend none"),
        ("    models: [hand]", "    extends: [large]", 12, "extends itself"),
    ],
)
def test_each_mistake_is_named_with_its_line(path: Path, old: str, new: str, line: int, message: str) -> None:
    assert old in OVERLAY
    write(path, OVERLAY.replace(old, new, 1))
    with pytest.raises(BadInput) as caught:
        overlay.load(path)
    assert str(caught.value).startswith(f"{path.with_name('models.local.yaml')}:{line}: ")
    assert message in str(caught.value)


def test_a_manifest_that_has_a_profile_local_keeps_it(path: Path) -> None:
    path.write_text(MANIFEST + "  local: {models: [one]}\n", encoding="utf-8")
    write(path)
    with pytest.raises(BadInput, match=r"models\.local\.yaml:10: .*profile 'local' is also in"):
        overlay.load(path)


@pytest.mark.parametrize(
    ("locked", "message"),
    [
        ("version: 1\nmodels: {}\n", "'link' from https://example.org/link.safetensors is not locked"),
        (LOCK.replace("org/link", "com/link"), "does not fit"),
        (LOCK.replace("    url:", "    revision: x\n    url:"), "has 'url', so"),
        (LOCK.replace("    url: https://example.org/link.safetensors\n", ""), "key 'repo' is missing"),
    ],
)
def test_a_link_without_its_lock_is_refused(path: Path, locked: str, message: str) -> None:
    write(path, locked=locked)
    with pytest.raises(BadInput, match=message):
        lock.load(overlay.load(path))


def test_what_is_added_is_read_back_and_the_same_again_changes_nothing(path: Path) -> None:
    model, entry = link()
    assert overlay.add(path, model, entry, ("local",))
    first = path.with_name("models.local.yaml").read_bytes()
    assert not overlay.add(path, model, entry, ("local",))
    assert path.with_name("models.local.yaml").read_bytes() == first
    other, other_entry = link("other", "loras/other.safetensors")
    assert overlay.add(path, other, other_entry, ("small", "large"))
    loaded = overlay.load(path)
    assert loaded.models["link"] == model and loaded.local == {"link", "other"}
    assert lock.load(loaded) == {"link": entry, "other": other_entry}
    assert names(loaded, "small") == ["one", "other", "link"]
    assert path.read_text(encoding="utf-8") == MANIFEST


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (link("one")[0], "model 'one' is in"),
        (link("new", "loras/one.safetensors")[0], "same destination loras/one.safetensors"),
        (link("new", "loras/link.safetensors")[0], "same destination loras/link.safetensors"),
        (link("link", "loras/elsewhere.safetensors")[0], "model 'link' is in"),
    ],
)
def test_a_name_or_a_place_that_is_taken_is_refused(path: Path, model: Model, message: str) -> None:
    overlay.add(path, *link(), ("local",))
    before = path.with_name("models.local.yaml").read_bytes()
    with pytest.raises(BadInput, match=message):
        overlay.add(path, model, link()[1], ("local",))
    assert path.with_name("models.local.yaml").read_bytes() == before


def test_a_profile_that_is_not_there_is_refused(path: Path) -> None:
    overlay.require_profiles(path, ("small", "local"))
    with pytest.raises(BadInput, match="profile 'smal' is not defined; did you mean 'small'"):
        overlay.require_profiles(path, ("smal",))


def test_many_that_add_at_once_are_all_in_it(path: Path) -> None:
    models = [link(f"m{number}", f"loras/m{number}.safetensors") for number in range(8)]
    threads = [
        threading.Thread(target=overlay.add, args=(path, model, entry, ("local",))) for model, entry in models
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loaded = overlay.load(path)
    assert loaded.local == {f"m{number}" for number in range(8)}
    assert len(lock.load(loaded)) == 8
    left = sorted(item.name for item in path.parent.iterdir())
    assert left == ["models.local.lock.yaml", "models.local.yaml", "models.yaml"]
