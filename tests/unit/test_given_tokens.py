"""Which of an inventory's tokens are refused, and that no sentence shows one."""

import pytest
from plugins.module_utils.ltxops_tokens import problems

GOOD = "aA0._~+/=-aA0._~+/=-"
BAD = ["", "short", "fifteen-letters", "with a space in it", "x" * 513, "nl-in-the-middle\nx"]


@pytest.mark.parametrize("token", BAD)
def test_a_bad_token_is_refused(token: str) -> None:  # R3
    for said in (list(problems(token, {})), list(problems(None, {"farm": token}))):
        assert len(said) == 1
        assert f"has {len(token)} characters" in said[0]
        assert token not in said[0] or token == ""


@pytest.mark.parametrize("token", [None, "x" * 16, "x" * 512, GOOD])
def test_a_good_token_is_taken(token: str | None) -> None:  # R3
    assert list(problems(token, {"farm": "y" * 16, "web-2_x": "z" * 512})) == []


@pytest.mark.parametrize("name", ["", "host", "Farm", "../farm", "-x", "a b", "n" * 33, GOOD])
def test_a_bad_name_is_refused_unshown(name: str) -> None:
    (said,) = problems(None, {"good": GOOD, name: "y" * 16})
    assert said.startswith("name 2 in gateway_tokens")
    assert GOOD not in said


def test_one_token_for_two_is_refused() -> None:
    (said,) = problems(GOOD, {"farm": GOOD})
    assert "farm is the same token as gateway_token" in said
    (said,) = problems(None, {"farm": GOOD, "web": GOOD})
    assert "web is the same token as farm" in said
    assert GOOD not in said
