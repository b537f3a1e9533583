"""The manifest: each mistake is named with file, line and key, before any network."""

from pathlib import Path

import pytest

from ltxops.errors import BadInput
from ltxops.models import manifest

REPOSITORY = Path(__file__).parents[2]

GOOD = """\
version: 1
models:
  encoder:
    repo: owner/name
    file: deep/folder/encoder.safetensors
    dest: text_encoders/
  renamed:
    repo: owner/name
    file: a.safetensors
    dest: loras/b.safetensors
  folder:
    repo: owner/sharded
    files: ["*.safetensors", tokenizer.json]
    dest: text_encoders/sharded/
    revision: v1
    license: mit
    gated: true
profiles:
  small: {models: [encoder]}
  large: {extends: [small], models: [renamed, encoder, folder]}
"""


def load(tmp_path: Path, text: str) -> manifest.Manifest:
    path = tmp_path / "models.yaml"
    path.write_text(text, encoding="utf-8")
    return manifest.load(path)


def test_reads_models_and_profiles(tmp_path: Path) -> None:
    good = load(tmp_path, GOOD)
    assert [model.name for model in good.profile("large")] == ["encoder", "renamed", "folder"]
    folder = good.models["folder"]
    assert (folder.revision, folder.license, folder.gated) == ("v1", "mit", True)
    assert folder.selects("model-1.safetensors") and not folder.selects("README.md")


def test_a_folder_keeps_the_name_and_a_path_renames(tmp_path: Path) -> None:
    models = load(tmp_path, GOOD).models
    assert (
        models["encoder"].destination("deep/folder/encoder.safetensors")
        == "text_encoders/encoder.safetensors"
    )
    assert models["renamed"].destination("a.safetensors") == "loras/b.safetensors"
    assert models["folder"].destination("x/y.json") == "text_encoders/sharded/x/y.json"


# R25
@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("version: 1", "version: 2", 1, "version: must be 1"),
        ("version: 1\n", "", 1, "key 'version' is missing"),
        ("version: 1", "version: 1\ncolour: red", 2, "unknown key 'colour'"),
        ("    dest: loras", "    dst: loras", 10, "models.renamed: unknown key 'dst'; did you mean 'dest'?"),
        ("    dest: loras/b.safetensors\n", "", 8, "models.renamed: key 'dest' is missing"),
        ("    file: a.s", "    file: a.s\n    file: c.s", 10, "models.renamed: key 'file' is given twice"),
        ("  renamed:", "  encoder:", 7, "models: key 'encoder' is given twice"),
        ("    file: a.safetensors\n", "", 8, "models.renamed: give either 'file' or 'files'"),
        ("    files: [", "    file: x\n    files: [", 12, "models.folder: give either 'file' or 'files'"),
        ('["*.safetensors", tokenizer.json]', "[]", 13, "models.folder.files: must name at least one"),
        ('["*.safetensors", tokenizer.json]', "tokenizer.json", 13, "must be a list, not 'tokenizer.json'"),
        ("dest: text_encoders/sharded/", "dest: text_encoders/sharded", 14, "must be a folder"),
        ("gated: true", "gated: maybe", 17, "models.folder.gated: must be true or false, not 'maybe'"),
        ("revision: v1", "revision: 10", 15, "models.folder.revision: must be a string, not '10'"),
        ("license: mit", "license:", 16, "models.folder.license: must be a string, not nothing"),
        ("repo: owner/sharded", "repo: sharded", 12, "must be OWNER/NAME, not 'sharded'"),
        ("repo: owner/sharded", "repo: owner/../sharded", 12, "must be OWNER/NAME"),
        (
            "loras/b.safetensors",
            "../b.safetensors",
            10,
            "models.renamed.dest: '../b.safetensors' contains '..'",
        ),
        ("loras/b.safetensors", "loras/../../b", 10, "contains '..'"),
        ("loras/b.safetensors", "/etc/passwd", 10, "is an absolute path"),
        ("loras/b.safetensors", "/", 10, "is an absolute path"),
        ("loras/b.safetensors", '"loras\\\\b"', 10, "contains a backslash"),
        ("loras/b.safetensors", '"loras/\\0b"', 10, "control character"),
        ("loras/b.safetensors", '""', 10, "must not be empty"),
        ("loras/b.safetensors", ".ltxops/ledger.json", 10, "belongs to ltxops"),
        (
            "file: a.safetensors",
            "file: ../a.safetensors",
            9,
            "models.renamed.file: '../a.safetensors' contains",
        ),
        ("[encoder]", "[encodr]", 19, "model 'encodr' is not defined; did you mean 'encoder'?"),
        ("extends: [small]", "extends: [smal]", 20, "profile 'smal' is not defined; did you mean 'small'?"),
        ("small: {", "small: {extends: [large], ", 19, "extends itself: small -> large -> small"),
        ("small: {models: [encoder]}", "small: {}", 19, "needs 'models', 'extends' or both"),
        (
            "loras/b.safetensors",
            "text_encoders/encoder.safetensors",
            20,
            "profiles.large: 'encoder' and 'renamed' have the same destination",
        ),
        ("loras/b.safetensors", "text_encoders", 20, "'renamed' is a file at text_encoders, where"),
        ("profiles:", "profiles: [", 20, "is not valid YAML"),
    ],
)
def test_each_mistake_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    assert old in GOOD
    with pytest.raises(BadInput) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert str(caught.value).startswith(f"{tmp_path}/models.yaml:{line}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "- a list\n", "just words\n", "models: {a: &x {b: *x}}\nversion: 1\nprofiles: {}\n"]
)
def test_what_is_no_manifest_at_all_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput, match=r"models\.yaml"):
        load(tmp_path, text)


def test_a_half_manifest_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    # R25: or it ends between two entries, and then what it says holds.
    for end in range(1, len(GOOD) - 1, 3):
        try:
            half = load(tmp_path, GOOD[:end])
        except BadInput as error:
            assert str(error).startswith(f"{tmp_path}/models.yaml:")
        else:
            assert GOOD[:end].rstrip().endswith("small: {models: [encoder]}")
            assert list(half.profiles) == ["small"]


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no such file"):
        manifest.load(tmp_path / "absent.yaml")
    (tmp_path / "models.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read"):
        manifest.load(tmp_path / "models.yaml")


def test_an_unknown_profile_is_answered_with_the_defined_ones(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        load(tmp_path, GOOD).profile("smal")
    assert "profile 'smal' is not defined; did you mean 'small'? (defined: small, large)" in str(caught.value)


def test_the_same_model_through_two_profiles_is_no_conflict(tmp_path: Path) -> None:
    text = GOOD + "  both: {extends: [small, large]}\n"
    assert len(load(tmp_path, text).profile("both")) == 3


def destinations(profile: str) -> set[str]:
    models = manifest.load(REPOSITORY / "models.yaml").profile(profile)
    return {model.dest if model.file is None else model.destination(model.file) for model in models}


def test_profile_vast_is_the_nine_files_of_the_vast_template() -> None:
    assert destinations("vast") == {
        "checkpoints/ltx-2-19b-dev-fp8.safetensors",
        "checkpoints/ltx-2-19b-distilled.safetensors",
        "diffusion_models/lotus-depth-d-v1-1.safetensors",
        "vae/vae-ft-mse-840000-ema-pruned.safetensors",
        "text_encoders/gemma_3_12B_it.safetensors",
        "latent_upscale_models/ltx-2-spatial-upscaler-x2-1.0.safetensors",
        "loras/ltx-2-19b-distilled-lora-384.safetensors",
        "loras/ltx-2-19b-lora-camera-control-dolly-left.safetensors",
        "loras/ltx-2-19b-ic-lora-depth-control.safetensors",
    }


def test_profile_api_has_the_checkpoint_and_the_whole_sharded_encoder() -> None:
    assert destinations("api") == {
        "checkpoints/ltx-2-19b-distilled.safetensors",
        "text_encoders/gemma-3-12b-it-qat-q4_0-unquantized/",
    }
    gemma = manifest.load(REPOSITORY / "models.yaml").models["gemma-3-12b-it-qat-q4_0-unquantized"]
    shards = [f"model-0000{number}-of-00005.safetensors" for number in range(1, 6)]
    for path in (*shards, "tokenizer.json", "tokenizer.model", "config.json", "model.safetensors.index.json"):
        assert gemma.selects(path), path


def test_profile_control_has_every_lora_and_what_its_graphs_load() -> None:
    camera = ("dolly-in", "dolly-out", "dolly-left", "dolly-right", "jib-up", "jib-down", "static")
    found = destinations("control")
    assert {f"loras/ltx-2-19b-lora-camera-control-{name}.safetensors" for name in camera} <= found
    guides = ("depth-control", "canny-control", "pose-control", "detailer")
    assert {f"loras/ltx-2-19b-ic-lora-{name}.safetensors" for name in guides} <= found
    assert "diffusion_models/lotus-depth-d-v1-1.safetensors" in found
    assert destinations("vast") <= found


def test_profile_full_is_everything() -> None:
    wanted = manifest.load(REPOSITORY / "models.yaml")
    assert {model.name for model in wanted.profile("full")} == set(wanted.models)


def test_the_demo_has_the_same_models_and_profiles() -> None:
    real = manifest.load(REPOSITORY / "models.yaml")
    demo = manifest.load(REPOSITORY / "inventory/demo/models.yaml")
    assert (demo.models, demo.profiles) == (real.models, real.profiles)
