"""The janitor's configuration is read strictly."""

import copy
from pathlib import Path
from typing import Any

import pytest

from ltxops.errors import BadInput
from ltxops.upkeep.janitor_config import load, parse

GOOD: dict[str, Any] = {
    "jobs": [
        {
            "name": "low-disk",
            "every": "10m",
            "run": "pressure",
            "dir": "/o",
            "older_than": "24h",
            "min_free": "1GiB",
        },
        {"name": "old", "every": "5m", "run": "ttl", "dir": "/o", "older_than": "10m"},
    ]
}


def test_a_good_one_is_understood() -> None:
    config = parse(GOOD, "janitor.yaml")
    assert config.heartbeat is None
    assert [(job.name, job.run, job.every_seconds) for job in config.jobs] == [
        ("low-disk", "pressure", 600),
        ("old", "ttl", 300),
    ]
    assert config.jobs[0].min_free_bytes == 2**30
    assert config.jobs[1].min_free_bytes is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"evry": "10m"}, "'evry'"),
        ({"every": 10}, "jobs[1].every"),
        ({"every": "10"}, "jobs[1].every"),
        ({"older_than": None}, "jobs[1].older_than"),
        ({"run": "tll"}, "jobs[1].run"),
        ({"run": ["ttl"]}, "jobs[1].run"),
        ({"min_free": "1GiB"}, "'min_free'"),
        ({"run": "pressure"}, "jobs[1].min_free"),
        ({"dir": "output"}, "jobs[1].dir"),
        ({"dir": ""}, "jobs[1].dir"),
        ({"name": "low-disk"}, "'low-disk'"),
    ],
)
def test_a_bad_job_is_named_by_its_key(change: dict[str, Any], named: str) -> None:
    content = copy.deepcopy(GOOD)
    content["jobs"][1].update(change)
    with pytest.raises(BadInput) as caught:
        parse(content, "janitor.yaml")
    assert "janitor.yaml" in str(caught.value)
    assert named in str(caught.value)


@pytest.mark.parametrize("content", [None, [], {}, {"jobs": []}, {"jobs": [3]}, {**GOOD, "heart": "/x"}])
def test_a_bad_shape_is_refused(content: Any) -> None:
    with pytest.raises(BadInput):
        parse(content, "janitor.yaml")


def test_a_heartbeat_needs_its_folder(tmp_path: Path) -> None:
    assert parse({**GOOD, "heartbeat": f"{tmp_path}/beat"}, "f").heartbeat == tmp_path / "beat"
    with pytest.raises(BadInput, match="heartbeat"):
        parse({**GOOD, "heartbeat": f"{tmp_path}/no/beat"}, "f")


def test_a_file_that_is_missing_or_not_yaml(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        load(str(tmp_path / "none.yaml"))
    broken = tmp_path / "janitor.yaml"
    broken.write_text("jobs: [")
    with pytest.raises(BadInput, match="not YAML"):
        load(str(broken))
