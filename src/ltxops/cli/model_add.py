"""`ltxops models add`: one file more, by what people have at hand."""

import argparse
from typing import TYPE_CHECKING

from ltxops.cli.model_options import (
    add_options,
    hub_maker,
    hub_token,
    hub_urls,
    path_argument,
    reserve_bytes,
)
from ltxops.cli.output import Subparsers, add_command, emit
from ltxops.errors import BadInput
from ltxops.units import format_bytes

if TYPE_CHECKING:
    from ltxops.models.add import Candidate
    from ltxops.models.store import Store


def add_verb(verbs: Subparsers) -> None:
    """Add the verb."""
    add = add_command(
        verbs,
        "add",
        _add,
        "Add one safetensors file to this site's weights, and bring it where --root says.",
        "ltxops models add OWNER/REPO:some-lora.safetensors --root /workspace/ComfyUI/models",
    )
    add.add_argument(
        "what",
        metavar="OWNER/REPO[:FILE[@REVISION]] | URL | PATH",
        help="the file, or the page of it on the hub",
    )
    add_options(manifest=(add,), hub=(add,), jobs=(add,), disk=(add,), wait=(add,))
    add.add_argument(
        "--root", type=path_argument, metavar="DIR", help="bring it to this models folder of ComfyUI, too"
    )
    add.add_argument(
        "--dest",
        default="loras/",
        metavar="PATH",
        help="a folder with a slash at its end, or a path; default: loras/",
    )
    add.add_argument("--name", help="its name in the manifest, default: from the file's name")
    add.add_argument(
        "--to-profile",
        action="append",
        metavar="NAME",
        help="may be given several times; default: local, which is part of every profile",
    )
    add.add_argument("--sha256", metavar="HEX", help="what the bytes must be")
    add.add_argument(
        "--trust-first-use",
        action="store_true",
        help="for a link of which no hash is known: take what comes and pin that; needs --root",
    )


def _add(args: argparse.Namespace) -> int:
    from ltxops.models import addresses, overlay
    from ltxops.models.add import Wish, find, refuse_occupied
    from ltxops.models.store import Store

    wish = Wish(args.dest, args.name, args.sha256.lower() if args.sha256 else None, args.trust_first_use)
    wish.check()
    reserve = reserve_bytes(args)
    if args.trust_first_use and args.root is None:
        raise BadInput("--trust-first-use needs --root: only what came can be pinned")
    address = addresses.parse(args.what, hub_urls(args)[0])
    profiles = tuple(args.to_profile or (overlay.EVERYWHERE,))
    overlay.require_profiles(args.manifest, profiles)
    store = Store(args.root) if args.root is not None else None
    candidate = find(address, wish, hub=hub_maker(args), token=hub_token(args), root=args.root)
    overlay.check(args.manifest, candidate.model)
    if store is not None:
        refuse_occupied(store, candidate)
        candidate = _bring(args, store, candidate, reserve)
    # Only now: an entry whose bytes turned out to be others would stand in the way of every sync.
    changed = overlay.add(args.manifest, candidate.model, candidate.entry, profiles)
    _report(args, candidate, profiles, changed)
    return 0


def _bring(args: argparse.Namespace, store: "Store", candidate: "Candidate", reserve: int) -> "Candidate":
    """Bring the file to its place; return the candidate with its hash."""
    from ltxops.models.direct import place_unproven
    from ltxops.models.progress import showing
    from ltxops.models.sync import sync

    with showing() as show:
        if candidate.proven_by is None:
            sha256 = place_unproven(
                store, candidate.wanted, reserve_bytes=reserve, wait_seconds=args.wait, show=show
            )
            return candidate.with_sha256(sha256)
        sync(
            store,
            [candidate.model],
            {candidate.model.name: candidate.entry},
            hub=hub_maker(args),
            reserve_bytes=reserve,
            jobs=args.jobs,
            wait_seconds=args.wait,
            show=show,
        )
    return candidate


def _report(
    args: argparse.Namespace, candidate: "Candidate", profiles: tuple[str, ...], changed: bool
) -> None:
    from ltxops.models.manifest import overlay_path

    model, wanted = candidate.model, candidate.wanted
    result = {
        "ok": True,
        "model": model.name,
        "source": model.source,
        "revision": candidate.entry.revision or None,
        "dest": wanted.dest,
        "size": candidate.file.size,
        "sha256": candidate.file.sha256,
        "tensors": candidate.header.tensors,
        "profiles": list(profiles),
        "manifest": str(overlay_path(args.manifest)),
        "changed": changed,
        "placed": args.root is not None,
    }
    text = (
        f"{model.name}: {wanted.dest} ({format_bytes(candidate.file.size)}, {candidate.header.tensors} "
        f"tensors) from {model.source}, in profile {', '.join(profiles)} of {result['manifest']}; "
    )
    if args.root is not None:
        text += f"at {args.root}/{wanted.dest}, proven"
    else:
        text += f"bring it with `ltxops models sync --manifest {args.manifest} --profile NAME --root DIR`"
    emit(args, result, text)
