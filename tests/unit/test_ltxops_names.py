"""Which names of variables are refused, and what is said of them."""

from pathlib import Path

from plugins.action.ltxops_names import complaints, variables_of

REPO = Path(__file__).parents[2]
VARIABLES = {"gateway": ["gateway_port", "gateway_token"], "wrapper": ["wrapper_port"], "doctor": []}


def test_every_role_is_read() -> None:
    found = variables_of(REPO / "roles")
    assert set(found) == {path.name for path in (REPO / "roles").iterdir()}
    assert "gateway_token" in found["gateway"]


def test_a_misspelt_variable_is_told_with_the_right_one() -> None:
    assert complaints(["gateway_prot"], VARIABLES) == [
        "gateway_prot is no variable of role gateway: did you mean gateway_port?"
    ]
    assert complaints(["wrapper_zzzzzzzzz", "doctor_x"], VARIABLES) == [
        "doctor_x is no variable of role doctor: roles/doctor/README.md lists them",
        "wrapper_zzzzzzzzz is no variable of role wrapper: roles/wrapper/README.md lists them",
    ]


def test_a_misspelt_role_is_told_where_the_rest_is_right() -> None:
    assert complaints(
        ["gatway_port", "gateways_token", "gatway_colour", "my_port", "wrap_port"], VARIABLES
    ) == [
        "gateways_token is no variable of any role: did you mean gateway_token?",
        "gatway_port is no variable of any role: did you mean gateway_port?",
    ]


def test_what_is_known_hidden_or_somebody_elses_is_left_alone() -> None:
    names = ["gateway_port", "_gateway_url", "__gateway_tokens", "my_port", "gateways", "ansible_host"]
    assert complaints(names, VARIABLES) == []
