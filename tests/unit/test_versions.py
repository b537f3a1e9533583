"""Which version is in use after each step, and which ones may go."""

from pathlib import Path

import pytest
from plugins.modules.ltxops_versions import Links, after_back, after_use, point, read, superfluous, target


@pytest.mark.parametrize(
    ("links", "wanted", "proven", "then"),
    [
        (Links("", ""), "v1", False, Links("v1", "")),
        (Links("v1", ""), "v1", False, Links("v1", "")),
        (Links("v1", ""), "v2", True, Links("v2", "v1")),
        # Nothing better to go back to.
        (Links("v1", ""), "v2", False, Links("v2", "v1")),
        (Links("v2", "v1"), "v3", True, Links("v3", "v2")),
        # v2 was switched to by a run that was killed.
        (Links("v2", "v1"), "v3", False, Links("v3", "v1")),
        (Links("v2", "v1"), "v1", False, Links("v1", "")),
        (Links("v2", "v1"), "v1", True, Links("v1", "v2")),
    ],
)
def test_what_is_gone_back_to_has_passed_where_one_has(
    links: Links, wanted: str, proven: bool, then: Links
) -> None:
    assert after_use(links, wanted, proven) == then


@pytest.mark.parametrize(
    ("links", "proven", "then"),
    [
        (Links("v2", "v1"), False, Links("v1", "")),
        # It worked for weeks: what fails now has another cause.
        (Links("v2", "v1"), True, Links("v2", "v1")),
        (Links("v1", ""), False, Links("v1", "")),
    ],
)
def test_only_a_version_that_never_passed_is_gone_back_from(links: Links, proven: bool, then: Links) -> None:
    assert after_back(links, proven) == then


def test_all_versions_go_but_the_one_in_use_and_the_one_before() -> None:
    assert superfluous(["v1", "v2", "v3"], Links("v3", "v2")) == ["v1"]
    assert superfluous(["v1", "v2"], Links("v2", "")) == ["v1"]
    assert superfluous(["v1", "v2"], Links("", "")) == []


def test_a_link_to_nothing_is_no_version(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    point(tmp_path / "current", "v1")
    assert target(tmp_path / "current") == "v1"
    point(tmp_path / "previous", "v1")
    assert read(tmp_path) == Links("v1", "")
    point(tmp_path / "current", "gone")
    assert read(tmp_path) == Links("", "v1")
    point(tmp_path / "previous", "")
    assert not (tmp_path / "previous").is_symlink()
