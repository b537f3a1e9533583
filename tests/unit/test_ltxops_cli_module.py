"""What an operator reads when an ltxops command fails inside a playbook."""

from plugins.modules.ltxops_cli import parse_result, sentence_of


def test_the_last_line_is_the_result_and_noise_before_it_is_not() -> None:
    assert parse_result('a warning\n{"ok": true}\n') == {"ok": True}
    assert parse_result("no JSON here") == {}
    assert parse_result("[1]") == {}
    assert parse_result("") == {}


def test_the_commands_own_sentence_comes_with_its_exit_code() -> None:
    assert sentence_of({"error": "disk is full"}, "noise", 4) == "disk is full [ltxops exit 4]"
    assert sentence_of({}, "usage: ...\n", 2) == "usage: ... [ltxops exit 2]"
    assert sentence_of({}, "", 1) == "the command said nothing [ltxops exit 1]"


def test_the_end_of_a_log_follows_the_sentence() -> None:
    result = {"error": "comfyui is FATAL", "log_tail": ["Traceback", "ImportError: kornia"]}
    assert sentence_of(result, "", 1).splitlines()[-1] == "  | ImportError: kornia"


def test_the_logs_of_a_smoke_case_are_named() -> None:
    cases = [{"logs": {}}, {"logs": {"comfyui": ["out of memory"]}}]
    told = sentence_of({"error": "two-stage: follow", "cases": cases}, "", 1).splitlines()
    assert told[1:] == ["  | last lines of comfyui:", "  | out of memory"]


def test_a_killed_command_is_told_as_such_and_not_with_the_lines_of_its_log() -> None:
    told = "the command was killed by signal 9; run the playbook again [ltxops exit 1]"
    # runuser, which stands between where we are root, adds 128.
    assert sentence_of({}, "so far 43 %\n", -9) == sentence_of({}, "", 137) == told


def test_of_a_long_log_only_the_end_is_told() -> None:
    told = sentence_of({}, "\n".join(f"line {number}" for number in range(500)), 1)
    assert told.splitlines()[0] == "line 490"
