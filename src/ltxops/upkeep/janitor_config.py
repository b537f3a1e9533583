"""The cleaners' configuration, a YAML file read strictly: a misspelt key never turns a cleaner off.

The janitor reads it, and `ltxops clean` started by cron.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ltxops.errors import BadInput
from ltxops.units import parse_duration, parse_size
from ltxops.upkeep.needed import CAP_SECONDS, GRACE_SECONDS
from ltxops.upkeep.steps import KINDS, Step, check

_TOP = {"heartbeat", "jobs", "log", "reports"}
_NEEDED = {
    "ttl": {"name", "every", "run", "dir", "older_than"},
    "pressure": {"name", "every", "run", "dir", "older_than", "min_free"},
}
_OPTIONAL = {"ttl": {"wrapper"}, "pressure": {"wrapper", "steps"}}
_WRAPPER = {"database", "grace", "cap"}
_STEP = {"kind", "dir", "older_than"}


@dataclass(frozen=True)
class WrapperSettings:
    """The wrapper's database, and how long its jobs protect their outputs."""

    database: Path
    grace_seconds: int
    cap_seconds: int


@dataclass(frozen=True)
class Job:
    """One cleaner and how often it runs. `min_free_bytes` is None for `ttl`."""

    name: str
    every_seconds: int
    run: str
    dir: str
    older_than_seconds: int
    min_free_bytes: int | None
    wrapper: WrapperSettings | None
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class JanitorConfig:
    """All jobs, and what tells others of them."""

    jobs: tuple[Job, ...]
    heartbeat: Path | None
    """Its mtime says that the janitor lives."""
    reports: Path | None
    """The folder in which each job leaves the report of its last run."""
    log: Path | None
    """The log that cron appends to, which nobody else rotates."""


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
        if not name.isprintable() or "/" in name or name.startswith("."):
            raise BadInput(f"{file}: a job has the name {name!r}: its report is a file of that name")
    reports = top.get("reports")
    return JanitorConfig(
        jobs,
        heartbeat=_file(top, "heartbeat", file),
        reports=None if reports is None else Path(_absolute(reports, "reports", file)),
        log=_file(top, "log", file),
    )


def _job(entry: Any, where: str, file: str) -> Job:
    kind = entry.get("run") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or kind not in _NEEDED:
        raise BadInput(f"{file}: {where}.run is {kind!r}: give ttl or pressure")
    job = _mapping(entry, file, where, _NEEDED[kind] | _OPTIONAL[kind])
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
        wrapper=_wrapper(job["wrapper"], f"{where}.wrapper", file) if "wrapper" in job else None,
        steps=_steps(job.get("steps", []), f"{where}.steps", file),
    )


def _wrapper(entry: Any, where: str, file: str) -> WrapperSettings:
    settings = _mapping(entry, file, where, _WRAPPER)
    return WrapperSettings(
        database=Path(_absolute(settings.get("database"), f"{where}.database", file)),
        grace_seconds=_duration(settings, "grace", where, file, GRACE_SECONDS),
        cap_seconds=_duration(settings, "cap", where, file, CAP_SECONDS),
    )


def _steps(entries: Any, where: str, file: str) -> tuple[Step, ...]:
    if not isinstance(entries, list):
        raise BadInput(f"{file}: {where} is {entries!r}: give a list of steps")
    return tuple(_step(entry, f"{where}[{index}]", file) for index, entry in enumerate(entries))


def _step(entry: Any, where: str, file: str) -> Step:
    settings = _mapping(entry, file, where, _STEP)
    kind = settings.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadInput(f"{file}: {where}.kind is {kind!r}: give one of {', '.join(KINDS)}")
    folder = _absolute(settings.get("dir"), f"{where}.dir", file)
    step = Step(kind, folder, _duration(settings, "older_than", where, file, KINDS[kind].older_than_seconds))
    try:
        check(step)
    except BadInput as error:
        raise BadInput(f"{file}: {where}: {error}") from None
    return step


def _duration(mapping: dict[str, Any], key: str, where: str, file: str, default: int) -> int:
    value = mapping.get(key)
    if value is None:
        return default
    return parse_duration(value if isinstance(value, str) else repr(value), f"{file}: {where}.{key}")


def _file(top: dict[str, Any], key: str, file: str) -> Path | None:
    if top.get(key) is None:
        return None
    path = Path(_absolute(top[key], key, file))
    if not path.parent.is_dir():
        raise BadInput(f"{file}: {key} is {str(path)!r}: its folder does not exist")
    return path


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
