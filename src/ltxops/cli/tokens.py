"""Commands of the noun token."""

import argparse
from pathlib import Path

from ltxops.cli.output import Subparsers, add_command, emit


def register(nouns: Subparsers) -> None:
    """Add `token new`, `token list`, `token revoke` and `token apply`."""
    token = nouns.add_parser(
        "token",
        help="the gateway's bearer tokens",
        description="The gateway's bearer tokens, several at once.",
    )
    verbs = token.add_subparsers(metavar="VERB", required=True)
    new = add_command(
        verbs,
        "new",
        _new,
        "make a token of 256 bits; it is valid at once",
        "ltxops token new --name render-farm --show",
    )
    new.add_argument("--show", action="store_true", help="print the token itself, not only where it lies")
    shown = add_command(verbs, "list", _list, "names, ages and files, never the tokens", "ltxops token list")
    revoke = add_command(
        verbs,
        "revoke",
        _revoke,
        "delete a token and end every open connection; `host`, the host's own, is replaced by a new one",
        "ltxops token revoke --name render-farm",
    )
    applied = add_command(
        verbs,
        "apply",
        _apply,
        "make nginx take the tokens that lie there (the playbook does)",
        "ltxops token apply",
    )
    for parser in (new, revoke):
        parser.add_argument("--name", required=True, help="1 to 32 of a-z 0-9 _ -")
    for parser in (new, shown, revoke, applied):
        parser.add_argument(
            "--directory",
            default="/etc/ltxops",
            metavar="DIR",
            help="where the host's settings lie (/etc/ltxops)",
        )


def _new(args: argparse.Namespace) -> int:
    from ltxops.upkeep.gateway import apply
    from ltxops.upkeep.tokens import describe, locked, make

    directory = Path(args.directory)
    with locked(directory):
        token = make(directory, args.name)
        apply(directory)
    result = {"ok": True, **describe(token)} | ({"token": token.value} if args.show else {})
    emit(args, result, token.value if args.show else f"{token.name}: {token.path}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from ltxops.upkeep.tokens import describe, read_all

    entries = [describe(token) for token in read_all(Path(args.directory))]
    lines = [f"{it['name']}: {it['age_days']} days old, {it['bits']} bits, {it['file']}" for it in entries]
    emit(args, {"ok": True, "tokens": entries}, "\n".join(lines) or "there is no token")
    return 0


def _revoke(args: argparse.Namespace) -> int:
    from ltxops.upkeep.gateway import apply
    from ltxops.upkeep.tokens import locked, remove

    directory = Path(args.directory)
    with locked(directory):
        removed = remove(directory, args.name)
        apply(directory)
    told = f"{args.name} is revoked, and every open connection has ended"
    if removed.is_given:
        told += "; take it out of gateway_tokens, too, or the next run of the playbook brings it back"
    emit(args, {"ok": True, "revoked": args.name, "in_inventory": removed.is_given}, told)
    return 0


def _apply(args: argparse.Namespace) -> int:
    from ltxops.upkeep.gateway import apply
    from ltxops.upkeep.tokens import locked

    directory = Path(args.directory)
    with locked(directory):
        changed = apply(directory)
    emit(
        args,
        {"ok": True, "changed": changed},
        "nginx has the tokens" if changed else "nginx had the tokens already",
    )
    return 0
