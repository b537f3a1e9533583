"""A deliverer that delivers nothing, for tests of jobs alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltxops.wrapper.refusals import Refused
from ltxops.wrapper.schema import GenerateInput, OutputItem, S3Settings, WebhookSettings


@dataclass
class NoCounters:
    """Nothing to count."""


class NoDelivery:
    """Delivers nothing, and says so instead of accepting what it would not do."""

    counters = NoCounters()

    async def open(self) -> None:
        """Begin."""

    async def close(self) -> None:
        """Stop."""

    def check(self, wanted: GenerateInput) -> None:
        """Refuse rather than ignore: who asks for an upload or a call must not wait for it in vain."""
        for name, settings in (("s3", wanted.s3), ("webhook", wanted.webhook)):
            if settings is not None and settings.given():
                raise Refused(
                    400,
                    "not_supported",
                    f"input.{name} is set, but this wrapper delivers nothing itself; leave it out or empty, "
                    "and take the files from local_path or from ComfyUI's /view",
                )

    async def fetch_inputs(
        self, job_id: str, graph: Mapping[str, Any], input_directory: Path | None
    ) -> dict[str, Any]:
        """Leave the graph as it is."""
        return dict(graph)

    async def drop_inputs(self, job_id: str, input_directory: Path | None) -> None:
        """There is nothing to remove."""

    async def upload(
        self, job_id: str, items: list[OutputItem], s3: S3Settings | None
    ) -> tuple[list[OutputItem], str | None]:
        """Leave the files where they are."""
        return items, None

    async def announce(
        self, job_id: str, envelope: Mapping[str, Any], webhook: WebhookSettings | None
    ) -> None:
        """Tell nobody."""
