"""What a check of the doctor ends with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """A name, whether it is as it must be, what was seen, and what to do if it is not."""

    name: str
    ok: bool
    detail: str
    fix: str = ""

    def to_json(self) -> dict[str, object]:
        """Return this check's entry in `--json`."""
        return {"name": self.name, "ok": self.ok, "detail": self.detail, "fix": "" if self.ok else self.fix}


def from_faults(name: str, faults: list[str], good: str, fix: str) -> Check:
    """Return a check that lists its faults, or says `good` where there are none."""
    return Check(name, not faults, "; ".join(faults) or good, fix)
