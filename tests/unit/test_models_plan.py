"""Decisions about files, from facts alone."""

import os
from pathlib import Path

import pytest

from ltxops.errors import BadInput, DiskFull
from ltxops.models.ledger import Ledger, Proof
from ltxops.models.lock import LockedFile, LockedModel
from ltxops.models.model import Model
from ltxops.models.plan import Space, State, Wanted, state_of, wanted_files
from ltxops.units import format_bytes

SHA256 = "ab" * 32
WANTED = Wanted("m", "owner/m", "c" * 40, LockedFile("m.bin", 5, SHA256), "loras/m.bin", False)


def stat_and_proof(path: Path, sha256: str = SHA256) -> tuple[os.stat_result, Proof]:
    stat = path.stat()
    proof = Proof(stat.st_size, stat.st_mtime_ns, stat.st_ino, sha256, None, "owner/m", "c" * 40, "found")
    return stat, proof


def test_a_file_is_judged_by_its_stat_and_its_proof(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(b"12345")
    stat, proof = stat_and_proof(path)
    assert state_of(WANTED, None, proof) is State.MISSING
    assert state_of(WANTED, stat, proof) is State.PRESENT
    assert state_of(WANTED, stat, None) is State.UNPROVEN
    assert state_of(WANTED, stat, stat_and_proof(path, "cd" * 32)[1]) is State.OUTDATED
    # R16
    os.utime(path, ns=(0, stat.st_mtime_ns + 1))
    assert state_of(WANTED, path.stat(), proof) is State.UNPROVEN
    path.write_bytes(b"1234")
    assert state_of(WANTED, path.stat(), proof) is State.WRONG


def test_another_file_under_the_name_is_not_covered(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(b"12345")
    stat, proof = stat_and_proof(path)
    other = tmp_path / "other"
    other.write_bytes(b"54321")
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)
    assert state_of(WANTED, path.stat(), proof) is State.UNPROVEN


def model(name: str, **changes: str) -> Model:
    fields = {"repo": "owner/m", "file": "m.bin", "dest": "loras/", **changes}
    return Model(name, fields["repo"], fields["file"], (), fields["dest"])


def test_the_lock_wins_over_what_this_host_resolved() -> None:
    locked = LockedModel("owner/m", "1" * 40, ("m.bin",), None, (LockedFile("m.bin", 1, SHA256),))
    resolved = LockedModel("owner/m", "2" * 40, ("m.bin",), None, (LockedFile("m.bin", 2, SHA256),))
    files, unknown = wanted_files([model("m")], {"m": locked}, {"m": resolved})
    assert ([item.revision for item in files], unknown) == (["1" * 40], [])
    # What was resolved for another repository says nothing about this one.
    files, unknown = wanted_files([model("m", repo="owner/new")], {}, {"m": resolved})
    assert (files, [item.name for item in unknown]) == ([], ["m"])


def test_two_files_for_one_destination_are_refused() -> None:
    # R25
    entry = LockedModel("owner/m", "1" * 40, ("m.bin",), None, (LockedFile("m.bin", 1, SHA256),))
    with pytest.raises(BadInput, match=r"'a' and 'b' have the same destination loras/m\.bin"):
        wanted_files([model("a"), model("b")], {"a": entry, "b": entry}, {})


def test_the_disk_verdict_names_the_shortfall() -> None:
    # R20
    gib = 1024**3
    assert Space(needed=10 * gib, reserve=gib, free=11 * gib).short == 0
    assert Space(needed=0, reserve=gib, free=0).short == 0
    with pytest.raises(
        DiskFull, match=r"10\.0 GiB to fetch and 1\.0 GiB to keep free, but 4\.0 GiB free, 7\.0 GiB short"
    ):
        Space(needed=10 * gib, reserve=gib, free=4 * gib).require("/models")


def test_the_disk_verdict_names_what_other_downloads_hold_when_that_matters() -> None:
    gib = 1024**3
    assert "unfinished" not in Space(needed=gib, reserve=gib, free=4 * gib, parts=gib).describe("/models")
    assert "unfinished" not in Space(needed=9 * gib, reserve=gib, free=4 * gib).describe("/models")
    short = Space(needed=9 * gib, reserve=gib, free=4 * gib, parts=2 * gib).describe("/models")
    assert "(2.0 GiB of the disk are unfinished files of other profiles, which `ltxops models prune" in short


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 * 1024**4, "3.0 TiB")]
)
def test_sizes_are_written_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_the_ledger_survives_a_round_trip_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    (tmp_path / "m.bin").write_bytes(b"12345")
    proof = stat_and_proof(tmp_path / "m.bin")[1]
    entry = LockedModel("owner/m", "1" * 40, ("m.bin",), None, (LockedFile("m.bin", 1, SHA256),))
    ledger = Ledger(path)
    ledger.prove("loras/m.bin", proof)
    ledger.remember({"m": entry})
    again = Ledger(path)
    assert (again.files, again.resolved, again.problem) == ({"loras/m.bin": proof}, {"m": entry}, None)
    for damaged in (
        "",
        "[]",
        "{}",
        '{"version": 9}',
        '{"version": 1, "files": {"x": {"size": 1}}, "resolved": {}}',
    ):
        path.write_text(damaged, encoding="utf-8")
        broken = Ledger(path)
        assert broken.files == {}
        assert broken.problem is not None and str(path) in broken.problem
