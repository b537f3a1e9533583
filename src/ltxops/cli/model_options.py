"""What the commands of the noun models share: their options, and the inputs that these name."""

import argparse
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltxops.errors import BadInput, CheckFailed

if TYPE_CHECKING:
    from ltxops.models.hub import Hub
    from ltxops.models.lock import LockedModel
    from ltxops.models.manifest import Model
    from ltxops.models.plan import State, Wanted
    from ltxops.models.store import Store

_UNITS = {"": 1, "B": 1, "KIB": 1024, "MIB": 1024**2, "GIB": 1024**3, "TIB": 1024**4}

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
            "--manifest", type=Path, default=Path("models.yaml"), metavar="FILE", help="default: models.yaml"
        )
    for command in profile:
        command.add_argument("--profile", required=True, metavar="NAME", help="a profile of the manifest")
    for command in root:
        command.add_argument(
            "--root", type=Path, required=True, metavar="DIR", help="ComfyUI's models folder"
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
            type=size_argument,
            default=_UNITS["GIB"],
            metavar="SIZE",
            help="disk to keep free, default: 1GiB",
        )
    for command in lock:
        command.add_argument("--require-lock", action="store_true", help="refuse models that are not locked")
    for command in wait:
        command.add_argument(
            "--wait",
            type=float,
            default=0,
            metavar="SECONDS",
            help="how long to wait for another run on this root",
        )


def read_inputs(args: argparse.Namespace) -> "tuple[list[Model], dict[str, LockedModel]]":
    """Return the profile's models and the lock; what is wrong in them is found before anything else."""
    from ltxops.models import lock, overlay

    wanted = overlay.load(args.manifest)
    models = wanted.profile(args.profile)
    locked = lock.load(wanted)
    if getattr(args, "require_lock", False):
        lock.require(models, locked, lock.lock_path(args.manifest))
    return models, locked


def sync_command(args: argparse.Namespace) -> str:
    """Return the command that puts right what `args` were about."""
    return f"`ltxops models sync --manifest {args.manifest} --profile {args.profile} --root {args.root}`"


def state_rows(states: "list[tuple[Wanted, State]]") -> list[dict[str, Any]]:
    """Return each file and how it stands, for JSON."""
    return [
        {"model": item.model, "dest": item.dest, "size": item.file.size, "state": state.value}
        for item, state in states
    ]


def known_files(args: argparse.Namespace) -> "tuple[Store, list[Wanted]]":
    """Return the profile's files without asking the hub. Raises CheckFailed when some were never resolved."""
    from ltxops.models.plan import wanted_files
    from ltxops.models.store import Store

    models, locked = read_inputs(args)
    store = Store(args.root)
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
        try:
            token = args.hf_token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"--hf-token-file {args.hf_token_file} cannot be read: {error}") from error
        if not token:
            raise BadInput(f"--hf-token-file {args.hf_token_file} is empty")
    else:
        token = os.environ.get("HF_TOKEN", "").strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise BadInput("the hub's token has characters that no token has; check HF_TOKEN or --hf-token-file")
    return token or None


def size_argument(text: str) -> int:
    """Parse `0`, `512MiB`, `1.5GiB`. Raises ArgumentTypeError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text)
    if match is None or match[2].upper() not in _UNITS:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size; write it like 0, 512MiB or 1.5GiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _positive(text: str) -> int:
    """Parse a whole number of 1 or more. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"'{text}' must be a whole number of 1 or more")
    return int(text)
