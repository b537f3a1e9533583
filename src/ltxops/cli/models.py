"""Commands of the noun models."""

from ltxops.cli.output import Subparsers


def register(nouns: Subparsers) -> None:
    """Add this noun's verbs."""
