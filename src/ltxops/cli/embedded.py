"""Commands of the noun embedded: the stand-ins for a GPU host's ComfyUI and for the model hub."""

import argparse
import sys
from pathlib import Path

from ltxops.cli.output import Subparsers, add_command, emit
from ltxops.cli.token import read_token
from ltxops.errors import BadInput

#: ComfyUI's own switches that change nothing here, taken so that one start script runs either engine.
IGNORED_SWITCHES = (
    "--disable-auto-launch",
    "--cpu",
    "--quick-test-for-ci",
    "--disable-all-custom-nodes",
    "--dont-print-server",
    "--log-stdout",
)


def register(nouns: Subparsers) -> None:
    """Add this noun's verbs."""
    noun = nouns.add_parser("embedded", help="stand-ins for ComfyUI and the model hub, without a GPU")
    verbs = noun.add_subparsers(metavar="VERB", required=True)
    _add_comfyui(verbs)
    _add_hub(verbs)


def _add_comfyui(verbs: Subparsers) -> None:
    parser = add_command(
        verbs,
        "comfyui",
        run_comfyui,
        "serve ComfyUI's API with a test pattern in place of a GPU (this is not LTX-2)",
        "ltxops embedded comfyui --port 18188 --base-directory workspace/ComfyUI",
    )
    parser.add_argument(
        "--listen", default="127.0.0.1", metavar="ADDR", help="address (default: %(default)s)"
    )
    parser.add_argument(
        "--port", type=int, default=8188, help="port, 0 for any free one (default: %(default)s)"
    )
    parser.add_argument(
        "--base-directory",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="folder that has models/, input/, output/ and temp/ (default: the current one)",
    )
    for name in ("output", "input", "temp"):
        parser.add_argument(f"--{name}-directory", type=Path, metavar="DIR", help=f"where {name}/ is instead")
    parser.add_argument(
        "--seconds-per-step", type=float, default=0.0, metavar="S", help="pace of a sampler (default: 0)"
    )
    parser.add_argument(
        "--max-upload-size", type=float, default=100.0, metavar="MB", help="largest request (default: 100)"
    )
    for switch in IGNORED_SWITCHES:
        parser.add_argument(switch, action="store_true", help="taken as ComfyUI takes it, changes nothing")
    for option in ("--preview-method", "--database-url"):
        parser.add_argument(option, metavar="X", help="taken as ComfyUI takes it, changes nothing")


def _add_hub(verbs: Subparsers) -> None:
    parser = add_command(
        verbs,
        "hub",
        run_hub,
        "serve the weights of a manifest as the model hub would",
        "ltxops embedded hub --manifest inventory/demo/models.yaml --root hub --port 18388",
    )
    parser.add_argument("--manifest", type=Path, required=True, metavar="FILE", help="models.yaml to serve")
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder of the files served")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDR", help="address (default: %(default)s)")
    parser.add_argument("--port", type=int, required=True, help="port")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file with the token to ask for")


def run_comfyui(args: argparse.Namespace) -> int:
    """Serve the embedded engine until it is told to stop."""
    from ltxops.embedded.comfyui.options import Options, folders_under
    from ltxops.embedded.comfyui.server import serve

    if not 0 <= args.port <= 65535:
        raise BadInput(f"--port {args.port} is not a port: give a number from 0 to 65535")
    if not 0 <= args.seconds_per_step < float("inf"):
        raise BadInput(f"--seconds-per-step {args.seconds_per_step} is not a time: give seconds, 0 or more")
    if not 0 < args.max_upload_size < float("inf"):
        raise BadInput(f"--max-upload-size {args.max_upload_size} is not a size: give megabytes above 0")
    base = args.base_directory
    if not base.is_dir():
        raise BadInput(
            f"--base-directory {base} is not a folder: create it, or give the one with models/ in it"
        )
    folders = folders_under(base, args.output_directory, args.input_directory, args.temp_directory)
    upload = round(args.max_upload_size * 1024 * 1024)
    code = serve(Options(args.listen, args.port, folders, args.seconds_per_step, tuple(sys.argv), upload))
    emit(args, {"ok": code == 0}, "embedded engine stopped")
    return code


def run_hub(args: argparse.Namespace) -> int:
    """Serve the embedded hub until it is told to stop."""
    from ltxops.embedded.hub import serve

    token = read_token(args.token_file) if args.token_file is not None else None
    return serve(args.manifest, args.root, args.host, args.port, token)
