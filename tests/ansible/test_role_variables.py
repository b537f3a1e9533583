"""Role variables: each is documented, has the default its documentation names, and none is misspelt."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).parents[2]
ROLES = sorted(path.name for path in (REPO / "roles").iterdir())


def load(path: Path) -> dict[str, Any]:
    return (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


def specs_of(role: str) -> dict[str, Any]:
    options: dict[str, Any] = load(REPO / f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"][
        "options"
    ]
    return options


def defaults_of(role: str) -> dict[str, Any]:
    return load(REPO / f"roles/{role}/defaults/main.yml")


def registered_in(text: str) -> set[str]:
    return set(re.findall(r"register: (\w+)", text))


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_documentation_name_the_same_variables(role: str) -> None:
    # A variable without a default is optional by design, and must say so in the defaults' comments.
    comments = (REPO / f"roles/{role}/defaults/main.yml").read_text()
    undocumented = set(defaults_of(role)) - set(specs_of(role))
    without_default = {
        name for name in specs_of(role) if name not in defaults_of(role) and name not in comments
    }
    assert (undocumented, without_default) == (set(), set())


@pytest.mark.parametrize("role", ROLES)
def test_documented_defaults_are_the_real_ones(role: str) -> None:
    documented = {name: spec["default"] for name, spec in specs_of(role).items() if "default" in spec}
    assert documented == {name: defaults_of(role)[name] for name in documented}


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_of_a_role_carries_its_name(role: str) -> None:
    assert [name for name in specs_of(role) if not name.startswith(f"{role}_")] == []


def test_no_variable_that_is_used_anywhere_is_misspelt() -> None:
    """Ansible takes an unknown variable in an inventory, or a default for one, without a word."""
    sources = {
        path: path.read_text()
        for folder in ("roles", "playbooks", "supervisord", "inventory")
        for path in (REPO / folder).rglob("*")
        if path.is_file() and path.suffix in {".yml", ".j2"}
    }
    known = {name for role in ROLES for name in specs_of(role)}
    hidden = {name for role in ROLES for name in load(REPO / f"roles/{role}/vars/main.yml")}
    registered = set().union(*(registered_in(text) for text in sources.values()))
    prefixes = "|".join(ROLES)
    # Words that begin like a variable but name a module, an action, an option of one, or a variable of nginx.
    tasks = {path.stem for kind in ("modules", "action") for path in (REPO / "plugins" / kind).glob("*.py")}
    other_names = {*tasks, "ltxops_allowed", "ltxops_connection", "update_cache"}
    unknown = {
        f"{path.relative_to(REPO)}: {name}"
        for path, text in sources.items()
        for name in re.findall(rf"(?<![\w/.$-])(_*(?:{prefixes})_\w+)", text)
        if name not in known | hidden | registered | other_names
    }
    assert unknown == set()


@pytest.mark.parametrize("role", ROLES)
def test_the_readme_of_a_role_names_all_its_variables(role: str) -> None:
    named = set(re.findall(r"^\| `(\w+)`", (REPO / f"roles/{role}/README.md").read_text(), re.MULTILINE))
    assert named == set(specs_of(role))
