"""`ltxops wrapper serve` and `wrapper check`; the other verbs are in drain.py."""

import argparse
import json
import os
import sys
from pathlib import Path

from ltxops.cli import drain
from ltxops.cli.output import Subparsers, add_command, emit
from ltxops.errors import BadInput


def register(nouns: Subparsers) -> None:
    """Add this noun's verbs."""
    noun = nouns.add_parser("wrapper", help="the API service in front of ComfyUI")
    verbs = noun.add_subparsers(metavar="VERB", required=True)
    drain.register(verbs)
    serve = add_command(
        verbs,
        "serve",
        _serve,
        "Serve /generate, /result, /cancel, /health, /metrics and /docs until SIGTERM.",
        "ltxops wrapper serve --output-directory /workspace/ComfyUI/output --state /var/lib/ltxops",
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=_port, default=18288, help="port to listen on (default: %(default)s)")
    serve.add_argument(
        "--backend",
        default=os.environ.get("COMFYUI_BACKENDS") or "http://127.0.0.1:18188",
        metavar="URL[#FOLDER][,URL[#FOLDER]]",
        help="where ComfyUI answers, and in which folder of the output folder its files are if not in that "
        "itself (default: COMFYUI_BACKENDS, else http://127.0.0.1:18188)",
    )
    serve.add_argument(
        "--output-directory",
        type=Path,
        required=True,
        metavar="DIR",
        help="the folder ComfyUI writes outputs to",
    )
    serve.add_argument(
        "--input-directory",
        type=Path,
        metavar="DIR",
        help="the folder ComfyUI takes files from; without it no input can be a URL",
    )
    serve.add_argument(
        "--state", type=Path, required=True, metavar="DIR", help="folder of jobs.sqlite3; made when missing"
    )
    serve.add_argument(
        "--backend-timeout",
        type=_positive_seconds,
        default=600.0,
        metavar="SECONDS",
        help="how long ComfyUI may take to answer for the first time (default: %(default)g)",
    )
    serve.add_argument(
        "--job-timeout",
        type=_positive_seconds,
        # Below the gateway's gateway_read_timeout_seconds, which cuts off whoever still waits.
        default=3300.0,
        metavar="SECONDS",
        help="how long a job may take, waiting included (default: %(default)g)",
    )
    serve.add_argument(
        "--max-waiting",
        type=_count,
        default=64,
        metavar="JOBS",
        help="how many jobs may wait before more are told to come back (default: %(default)d)",
    )
    serve.add_argument(
        "--on-backend-loss",
        choices=("fail", "retry"),
        default="fail",
        help="whether a job is run once more when its ComfyUI or GPU is lost (default: %(default)s)",
    )
    serve.add_argument(
        "--min-free",
        # Below the 512MiB that the cleaners keep: with as much each cleaning would make room for one job.
        default="256MiB",
        metavar="SIZE",
        help="free space on the disk of the outputs below which no job is taken or begun (default: "
        "%(default)s)",
    )
    serve.add_argument(
        "--max-body-bytes",
        type=_count,
        default=50_000_000,
        metavar="BYTES",
        help="the largest request that is read (default: %(default)d)",
    )
    add_command(
        verbs,
        "check",
        _check,
        "Say whether the wrapper would start with these settings of storage and webhooks: a JSON object of "
        "environment variables on stdin.",
        "ltxops wrapper check <settings.json",
    )


def _check(args: argparse.Namespace) -> int:
    from ltxops.wrapper.delivery.settings import DeliverySettings

    try:
        given = json.load(sys.stdin)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise BadInput(
            'the settings on stdin are no JSON object; write them like {"S3_BUCKET_NAME": "videos"}'
        )
    DeliverySettings.from_environment({name: str(value) for name, value in given.items()})
    emit(args, {"ok": True}, "the wrapper can start with these settings")
    return 0


def _serve(args: argparse.Namespace) -> int:
    from ltxops.units import parse_size
    from ltxops.wrapper.backends import parse_backends
    from ltxops.wrapper.drain import NAME
    from ltxops.wrapper.serve import Settings, serve
    from ltxops.wrapper.settings import JobSettings

    serve(
        Settings(
            host=args.host,
            port=args.port,
            backends=parse_backends(args.backend),
            state=args.state.absolute(),
            jobs=JobSettings(
                output_directory=args.output_directory.absolute(),
                input_directory=args.input_directory.absolute() if args.input_directory else None,
                max_waiting=args.max_waiting,
                deadline_seconds=args.job_timeout,
                min_free_bytes=parse_size(args.min_free, "--min-free"),
                retry_lost=args.on_backend_loss == "retry",
                drain_file=args.state.absolute() / NAME,
            ),
            backend_timeout_seconds=args.backend_timeout,
            max_body_bytes=args.max_body_bytes,
        )
    )
    emit(args, {"ok": True}, "stopped")
    return 0


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port; give 1 to 65535")
    return port


def _positive_seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no duration; give seconds above 0")
    return seconds


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is too few; give 1 or more")
    return count
