"""What the jobs ask of whoever fetches inputs, uploads outputs and calls webhooks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

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
