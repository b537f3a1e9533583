"""In which order files come: first what a first video needs."""

from collections.abc import Iterable

from ltxops.models.plan import Wanted
from ltxops.models.ranges import MIB

_SMALL_BYTES = 8 * MIB
_FIRST_FOLDERS = ("checkpoints", "text_encoders", "latent_upscale_models")


def fetch_order(files: Iterable[Wanted]) -> list[Wanted]:
    """Return `files` sorted: small ones, then what every LTX-2 graph loads, then the rest; else as given.

    Small ones (configurations, tokenizers) are first because they cost nothing, and the folders that they
    complete are useless without them.
    """
    return sorted(files, key=_rank)


def _rank(item: Wanted) -> int:
    if item.file.size < _SMALL_BYTES:
        return 0
    folder, _, name = item.dest.partition("/")
    # The distilled LoRA is part of the two-stage graph; other LoRAs are choices of a user.
    needed = folder in _FIRST_FOLDERS or (folder == "loras" and "distilled-lora" in name)
    return 1 if needed else 2
