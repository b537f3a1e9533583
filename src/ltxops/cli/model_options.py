"""What the commands of the noun models share: their options, and the inputs that these name."""

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltxops.cli.output import log
from ltxops.cli.token import read_token, require_sendable
from ltxops.errors import CheckFailed
from ltxops.units import parse_size

if TYPE_CHECKING:
    from ltxops.models.hub import Hub
    from ltxops.models.lock import LockedModel
    from ltxops.models.manifest import Manifest
    from ltxops.models.model import Model
    from ltxops.models.plan import State, Wanted
    from ltxops.models.store import Store

Parsers = Iterable[argparse.ArgumentParser]


def add_options(
    *,
    manifest: Parsers = (),
    profile: Parsers = (),
    root: Parsers = (),
    hub: Parsers = (),
    jobs: Parsers = (),
    network: Parsers = (),
    disk: Parsers = (),
    lock: Parsers = (),
    wait: Parsers = (),
) -> None:
    """Add each group of options to the commands that have it."""
    for command in manifest:
        command.add_argument(
            "--manifest",
            type=path_argument,
            default=Path("models.yaml"),
            metavar="FILE",
            help="default: models.yaml",
        )
    for command in profile:
        command.add_argument("--profile", required=True, metavar="NAME", help="a profile of the manifest")
    for command in root:
        command.add_argument(
            "--root", type=path_argument, required=True, metavar="DIR", help="ComfyUI's models folder"
        )
    for command in hub:
        command.add_argument(
            "--hub",
            action="append",
            metavar="URL",
            help="default: HF_ENDPOINT, else https://huggingface.co; given again, a mirror to ask next",
        )
        command.add_argument("--hf-token-file", type=Path, metavar="FILE", help="instead of HF_TOKEN")
    for command in jobs:
        command.add_argument(
            "--jobs",
            type=_positive,
            default=4,
            metavar="N",
            help="files to hash at a time, default: %(default)s",
        )
    for command in network:
        command.add_argument(
            "--connections",
            type=_positive,
            default=32,
            metavar="N",
            help="at most so many connections; fewer where more bring nothing, default: 32",
        )
        command.add_argument(
            "--xet", action="store_true", help="try the hub's Xet storage first, plain HTTP where it fails"
        )
    for command in disk:
        command.add_argument(
            "--reserve",
            default="1GiB",
            metavar="SIZE",
            help="disk to keep free, such as 5GiB, or 0; default: %(default)s",
        )
    for command in lock:
        command.add_argument("--require-lock", action="store_true", help="refuse models that are not locked")
    for command in wait:
        command.add_argument(
            "--wait",
            type=_seconds,
            default=0,
            metavar="SECONDS",
            help="how long to wait for another run on this root",
        )


def read_inputs(args: argparse.Namespace) -> "tuple[Manifest, list[Model], dict[str, LockedModel]]":
    """Return the manifest, the profile's models and the lock; what is wrong in them is found first of all."""
    from ltxops.models import lock, overlay

    wanted = overlay.load(args.manifest)
    models = wanted.profile(args.profile)
    locked = lock.load(wanted)
    if getattr(args, "require_lock", False):
        lock.require(models, locked, lock.lock_path(args.manifest))
    return wanted, models, locked


def sync_command(args: argparse.Namespace) -> str:
    """Return the command that puts right what `args` were about."""
    return f"`ltxops models sync --manifest {args.manifest} --profile {args.profile} --root {args.root}`"


def state_rows(states: "list[tuple[Wanted, State]]") -> list[dict[str, Any]]:
    """Return each file and how it stands, for JSON."""
    return [
        {"model": item.model, "dest": item.dest, "size": item.file.size, "state": state.value}
        for item, state in states
    ]


def open_store(args: argparse.Namespace) -> "Store":
    """Return the store of the root, to be looked at; says so when what was proven there is not known."""
    from ltxops.models.store import Store

    store = Store(args.root)
    if store.ledger.problem:
        log(f"ltxops: {store.ledger.problem}")
    return store


def known_files(args: argparse.Namespace) -> "tuple[Store, list[Wanted]]":
    """Return the profile's files without asking the hub. Raises CheckFailed when some were never resolved."""
    from ltxops.models.plan import wanted_files

    _, models, locked = read_inputs(args)
    store = open_store(args)
    files, unknown = wanted_files(models, locked, store.ledger.resolved)
    if unknown:
        names = ", ".join(model.name for model in unknown)
        raise CheckFailed(f"never fetched to {store.root}: {names}; run {sync_command(args)}")
    return store, files


def hub_maker(args: argparse.Namespace) -> "Callable[[], Hub]":
    """Return what makes the hub, once: a run that needs no network does not even import its library."""
    token = hub_token(args)
    made: list[Hub] = []

    def make() -> "Hub":
        from ltxops.models.hub import Hub

        if not made:
            first, *mirrors = hub_urls(args)
            made.append(Hub(first, token, mirrors=mirrors))
        return made[0]

    return make


def hub_urls(args: argparse.Namespace) -> list[str]:
    """Return the hub's address, and those of its mirrors in their order."""
    return args.hub or [os.environ.get("HF_ENDPOINT") or "https://huggingface.co"]


def hub_token(args: argparse.Namespace) -> str | None:
    """Return the hub's token from its file or HF_TOKEN, None when there is none."""
    if args.hf_token_file is not None:
        return read_token(args.hf_token_file, "--hf-token-file")
    token = os.environ.get("HF_TOKEN", "").strip()
    require_sendable(token, "HF_TOKEN")
    return token or None


def reserve_bytes(args: argparse.Namespace) -> int:
    """Return how much of the disk is to stay free."""
    return parse_size(args.reserve, "--reserve", zero=True)


def path_argument(text: str) -> Path:
    """Parse a path. Raises ArgumentTypeError for an empty one, which would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; is a variable of your shell not set?")
    return Path(text)


def _positive(text: str) -> int:
    """Parse a whole number of 1 or more. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"'{text}' must be a whole number of 1 or more")
    return int(text)


def _seconds(text: str) -> float:
    """Parse seconds of 0 or more. Raises ArgumentTypeError."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' must be a number of seconds, 0 or more")
    return seconds
