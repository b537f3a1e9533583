"""Restart a program on one host after the other, so that never more than one is away."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ltxops.errors import CheckFailed, LtxopsError, NetworkError
from ltxops.fleet.connect import Access
from ltxops.fleet.inventory import Target
from ltxops.fleet.machine import LOST, explain, reach
from ltxops.fleet.status import answer_of

#: What the command on the host may take longer than the time it was given.
_MARGIN_SECONDS = 30.0


@dataclass(frozen=True)
class Outcome:
    """What happened on one host: `text` says it; with `failure` it went wrong; `touched` or left alone."""

    host: str
    text: str = ""
    failure: LtxopsError | None = None
    log_tail: tuple[str, ...] = ()
    touched: bool = True


def restart(
    targets: Sequence[Target],
    access: Access,
    program: str,
    timeout_seconds: float,
    say: Callable[[str], None],
) -> Iterator[Outcome]:
    """Restart the program on each target and wait until it is well there.

    A host that cannot be reached does not stop the others. One on which the program does not become well
    does: what broke it there might break it everywhere.
    """
    broken = ""
    for target in targets:
        if broken:
            yield Outcome(
                target.name, f"left alone, because {program} is not well on {broken}", touched=False
            )
            continue
        say(f"{target.name}: restarting {program}")
        outcome = _one(target, access, program, timeout_seconds)
        yield outcome
        if outcome.failure is not None and outcome.touched:
            broken = target.name


def _one(target: Target, access: Access, program: str, timeout_seconds: float) -> Outcome:
    try:
        machine = reach(target, access)
    except LtxopsError as error:
        return Outcome(target.name, failure=error, touched=False)
    command = [f"{target.home}/venv/bin/ltxops", "services", "restart", "--json", "--program", program]
    command += ["--config", target.host_file, "--timeout", f"{timeout_seconds:g}"]
    with machine:
        try:
            done = machine.run(command, timeout_seconds + _MARGIN_SECONDS)
        except NetworkError as error:
            return Outcome(target.name, failure=error)
    answer = answer_of(done)
    if answer is None:
        return Outcome(target.name, failure=explain(target, done), touched=done.code == LOST)
    if not answer["ok"]:
        code = answer.get("exit_code", CheckFailed.exit_code)
        kinds = {kind.exit_code: kind for kind in LtxopsError.__subclasses__()}
        failure = kinds.get(code, CheckFailed)(f"{target.name}: {answer.get('error')}")
        tail = tuple(str(line) for line in answer.get("log_tail", []))
        return Outcome(target.name, failure=failure, log_tail=tail, touched=code == CheckFailed.exit_code)
    before, (now,) = answer["before"], answer["programs"]
    was = f"it was {before['state']}" + (f", pid {before['pid']}" if before["pid"] else "")
    return Outcome(target.name, f"{program} is running and well, pid {now['pid']} ({was})")
