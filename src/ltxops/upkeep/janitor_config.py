"""The janitor's configuration, a YAML file read strictly: a misspelt key never turns a cleaner off."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ltxops.errors import BadInput
from ltxops.units import parse_duration, parse_size

_TOP = {"heartbeat", "jobs"}
_NEEDED = {
    "ttl": {"name", "every", "run", "dir", "older_than"},
    "pressure": {"name", "every", "run", "dir", "older_than", "min_free"},
}


@dataclass(frozen=True)
class Job:
    """One cleaner and how often it runs. `min_free_bytes` is None for `ttl`."""

    name: str
    every_seconds: int
    run: str
    dir: str
    older_than_seconds: int
    min_free_bytes: int | None


@dataclass(frozen=True)
class JanitorConfig:
    """All jobs, and the file whose mtime says that the janitor lives."""

    jobs: tuple[Job, ...]
    heartbeat: Path | None


def load(file: str) -> JanitorConfig:
    """Read the configuration `file`. Raises BadInput that names the file and the key."""
    try:
        content = yaml.safe_load(Path(file).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} cannot be read ({error}): give the janitor's configuration") from None
    except yaml.YAMLError as error:
        raise BadInput(f"{file} is not YAML ({' '.join(str(error).split())}): correct it") from None
    return parse(content, file)


def parse(content: Any, file: str) -> JanitorConfig:
    """Check what was read from `file`. Raises BadInput that names the file and the key."""
    top = _mapping(content, file, "the top level", _TOP)
    if not isinstance(top.get("jobs"), list) or not top["jobs"]:
        raise BadInput(f"{file}: jobs is {top.get('jobs')!r}: give a list with at least one job")
    jobs = tuple(_job(entry, f"jobs[{index}]", file) for index, entry in enumerate(top["jobs"]))
    names = [job.name for job in jobs]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"{file}: two jobs have the name {name!r}: give each its own")
    heartbeat = top.get("heartbeat")
    if heartbeat is not None:
        heartbeat = _absolute(heartbeat, "heartbeat", file)
        if not Path(heartbeat).parent.is_dir():
            raise BadInput(f"{file}: heartbeat is {heartbeat!r}: its folder does not exist")
    return JanitorConfig(jobs, Path(heartbeat) if heartbeat else None)


def _job(entry: Any, where: str, file: str) -> Job:
    kind = entry.get("run") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or kind not in _NEEDED:
        raise BadInput(f"{file}: {where}.run is {kind!r}: give ttl or pressure")
    job = _mapping(entry, file, where, _NEEDED[kind])
    for key in sorted(_NEEDED[kind]):
        if not isinstance(job.get(key), str) or not job[key].strip():
            raise BadInput(
                f"{file}: {where}.{key} is {job.get(key)!r}: give a text, such as name: old or every: 10m"
            )
    size = parse_size(job["min_free"], f"{file}: {where}.min_free") if kind == "pressure" else None
    return Job(
        name=job["name"],
        every_seconds=parse_duration(job["every"], f"{file}: {where}.every"),
        run=kind,
        dir=_absolute(job["dir"], f"{where}.dir", file),
        older_than_seconds=parse_duration(job["older_than"], f"{file}: {where}.older_than"),
        min_free_bytes=size,
    )


def _mapping(value: Any, file: str, where: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(
            f"{file}: {where} is {type(value).__name__}: give a mapping with {', '.join(sorted(known))}"
        )
    for key in value:
        if key not in known:
            raise BadInput(f"{file}: unknown key {key!r} in {where}: it takes {', '.join(sorted(known))}")
    return value


def _absolute(value: Any, where: str, file: str) -> str:
    if not isinstance(value, str) or not Path(value).is_absolute():
        raise BadInput(f"{file}: {where} is {value!r}: give an absolute path")
    return value
