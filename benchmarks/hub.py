"""The embedded hub in front of the benchmark's CDN: a new link for every redirect, as the real one gives."""

import argparse
import asyncio
import secrets
import sys
from pathlib import Path

from ltxops.embedded.hub import EmbeddedHub, read_repositories, run
from ltxops.models import manifest


def new_link(url: str) -> str:
    """Return `url` with a mark of its own, by which the CDN tells one link from another."""
    return f"{url}?link={secrets.token_hex(8)}"


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--cdn-url", required=True)
    args = parser.parse_args()
    repositories = read_repositories(manifest.load(args.manifest), args.root)
    asyncio.run(run(EmbeddedHub(repositories, None, args.cdn_url, new_link).app(), "127.0.0.1", 0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
