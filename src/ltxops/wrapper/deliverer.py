"""What the jobs ask of whoever fetches inputs, uploads outputs and calls webhooks; one who does nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ltxops.wrapper.refusals import Refused
from ltxops.wrapper.schema import GenerateInput, OutputItem, S3Settings, WebhookSettings


class Deliverer(Protocol):
    """Everything that leaves the host for a job, or comes to it."""

    @property
    def counters(self) -> Any:
        """A dataclass of numbers that only grow: what was delivered and what failed in this process."""

    async def open(self) -> None:
        """Begin: what an earlier process left undelivered is taken up."""

    async def close(self) -> None:
        """Stop; what is not delivered is kept for the next process."""

    def check(self, wanted: GenerateInput) -> None:
        """Raise Refused(400) when what `wanted` asks for could never be delivered. No network."""

    async def fetch_inputs(
        self, job_id: str, graph: Mapping[str, Any], input_directory: Path | None
    ) -> dict[str, Any]:
        """Return `graph` with names of fetched files for URLs; raises LtxopsError with one sentence."""

    async def drop_inputs(self, job_id: str, input_directory: Path | None) -> None:
        """Remove what was fetched for a job that has ended."""

    async def upload(
        self, job_id: str, items: list[OutputItem], s3: S3Settings | None
    ) -> tuple[list[OutputItem], str | None]:
        """Return the items with the URL of those uploaded, and why an upload failed, if one did."""

    async def announce(
        self, job_id: str, envelope: Mapping[str, Any], webhook: WebhookSettings | None
    ) -> None:
        """Keep the event of a job's end for its webhook; it is durable when this returns."""


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
