"""The delivery as the jobs of the wrapper see it: inputs come in, outputs and news of them go out."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from ltxops import __version__
from ltxops.errors import CheckFailed
from ltxops.timing import in_time
from ltxops.wrapper.delivery.checks import check_delivery
from ltxops.wrapper.delivery.connections import Lookup, SystemLookup, open_session
from ltxops.wrapper.delivery.counters import Counters
from ltxops.wrapper.delivery.failures import DeliveryFailed
from ltxops.wrapper.delivery.fetching import Fetcher, drop
from ltxops.wrapper.delivery.inputs import references
from ltxops.wrapper.delivery.outbox import Outbox
from ltxops.wrapper.delivery.s3 import Destination, choose, object_keys
from ltxops.wrapper.delivery.settings import DeliverySettings
from ltxops.wrapper.delivery.uploads import Uploader
from ltxops.wrapper.delivery.webhooks import Caller, event_of
from ltxops.wrapper.schema import GenerateInput, OutputItem, S3Settings, WebhookSettings

log = logging.getLogger("ltxops.wrapper.delivery")

#: All uploads of one job together.
UPLOAD_SECONDS = 1800.0

_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 30.0

_T = TypeVar("_T")


class Delivery:
    """Everything that leaves this host or comes to it for a job. Call `open` first and `close` last.

    `counters` are for metrics. `lookup` is how names are resolved; None is as the host does.
    """

    def __init__(
        self, settings: DeliverySettings, database_path: Path, *, lookup: Lookup | None = None
    ) -> None:
        self._settings = settings
        self._database_path = database_path
        self._system_lookup = SystemLookup()
        self._lookup = lookup or self._system_lookup
        self.counters = Counters()

    async def open(self) -> None:
        """Start to deliver, first what an earlier process left. Raises CheckFailed for an unusable outbox."""
        settings = self._settings
        # One thread: SQLite's calls keep their order, and none of them holds up the event loop.
        self._thread = ThreadPoolExecutor(1, "outbox")
        try:
            self._outbox = await self._call(Outbox, self._database_path)
        except CheckFailed:
            self._thread.shutdown()
            raise
        timeout = aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
        agent = f"ltxops/{__version__}"
        self._checked = open_session(self._lookup, settings.allowed_networks, timeout, agent)
        self._unchecked = open_session(self._lookup, None, timeout, agent)
        self._fetcher = Fetcher(
            self._checked,
            settings.allowed_networks,
            max_bytes=settings.input_max_bytes,
            timeout_seconds=settings.input_timeout_seconds,
        )
        self._uploader = Uploader(self._lookup, settings.allowed_networks)
        self._caller = Caller(
            self._outbox,
            self._call,
            (self._unchecked, self._checked),
            settings.webhook_secrets,
            allowed=settings.allowed_networks,
            timeout_seconds=settings.webhook_timeout_seconds,
            schedule=settings.webhook_retry_seconds,
            counters=self.counters,
        )
        self._calling = asyncio.create_task(self._caller.run())

    async def close(self) -> None:
        """Stop. What is not delivered stays in the outbox for the next process."""
        self._calling.cancel()
        await asyncio.gather(self._calling, return_exceptions=True)
        await self._checked.close()
        await self._unchecked.close()
        await self._call(self._outbox.close)
        self._thread.shutdown()
        self._system_lookup.close()

    def check(self, wanted: GenerateInput) -> None:
        """Raise Refused(400) when what a request asks to be delivered never can be. Nothing is looked up."""
        check_delivery(wanted, self._settings.allowed_networks)

    async def fetch_inputs(
        self, job_id: str, graph: Mapping[str, Any], input_directory: Path | None
    ) -> dict[str, Any]:
        """Return `graph` with the files of its URLs in ComfyUI's input folder.

        `input_directory` is None where that folder is not on this host. Raises DeliveryFailed.
        """
        if not references(graph):
            return dict(graph)
        try:
            if input_directory is None:
                raise DeliveryFailed(
                    "the workflow names URLs as inputs, and the wrapper was not told ComfyUI's input folder"
                )
            filled, fetched = await self._fetcher.fetch_all(job_id, graph, input_directory)
        except DeliveryFailed:
            self.counters.inputs_failed += 1
            raise
        self.counters.inputs_fetched += fetched
        return filled

    async def drop_inputs(self, job_id: str, input_directory: Path | None) -> None:
        """Remove what was fetched for a job. Call it when the job has ended."""
        if input_directory is not None:
            await asyncio.to_thread(drop, job_id, input_directory)

    async def upload(
        self, job_id: str, items: list[OutputItem], s3: S3Settings | None
    ) -> tuple[list[OutputItem], str | None]:
        """Return the outputs with links to those that were uploaded, and why one was not, or None.

        Local files stay as they are. The first failure ends the upload; what was uploaded keeps its link.
        """
        try:
            destination = self._destination(s3)
        except ValueError as error:
            return items, f"The outputs were not uploaded: {error}."
        if destination is None or not items:
            return items, None
        expiry = (s3.url_expiry_seconds if s3 else None) or self._settings.url_expiry_seconds
        linked = list(items)
        await self._call(self._outbox.upload_begins, job_id)
        try:
            await in_time(self._upload(job_id, linked, destination, expiry), UPLOAD_SECONDS)
        except (DeliveryFailed, asyncio.TimeoutError) as error:
            self.counters.uploads_failed += 1
            done = sum(item.url is not None for item in linked)
            reason = str(error) or f"they took longer than {UPLOAD_SECONDS:g} s"
            log.error("job %s: upload to bucket %s failed: %s", job_id, destination.bucket_name, reason)
            return (
                linked,
                f"Of {len(items)} outputs {done} were uploaded: {reason}. The local files are kept.",
            )
        finally:
            await asyncio.shield(self._call(self._outbox.upload_ends, job_id))
        return linked, None

    async def _upload(
        self, job_id: str, items: list[OutputItem], destination: Destination, expiry_seconds: int
    ) -> None:
        """Upload one output after the other; each gets its link in `items` as it arrives."""
        keys = object_keys(self._settings.key_prefix, job_id, items)
        async with self._uploader.client(destination) as client:
            for index, (item, key) in enumerate(zip(list(items), keys, strict=True)):
                link, size = await self._uploader.upload(
                    client, destination.bucket_name, key, Path(item.local_path), expiry_seconds
                )
                items[index] = item.model_copy(update={"url": link})
                self.counters.uploads_done += 1
                self.counters.upload_bytes += size
                log.info("job %s: %s uploaded to bucket %s", job_id, item.filename, destination.bucket_name)

    def _destination(self, s3: S3Settings | None) -> Destination | None:
        return choose(s3, self._settings.s3, self._settings.allowed_networks)

    async def announce(
        self, job_id: str, envelope: Mapping[str, Any], webhook: WebhookSettings | None
    ) -> None:
        """Put the end of a job into the outbox, when somebody is to be told; it is durable on return.

        Raises sqlite3.Error when it cannot be recorded.
        """
        requested = webhook.url if webhook is not None else None
        url = requested or self._settings.webhook_url
        if url is None:
            return
        extra_params = webhook.extra_params if webhook is not None else None
        event = event_of(job_id, envelope, extra_params, url, of_host=requested is None)
        await self._call(self._outbox.put, event)
        self.counters.webhooks_announced += 1
        self._caller.wake()

    async def webhooks_pending(self) -> int:
        """Return how many events are not settled, for metrics."""
        return await self._call(self._outbox.count)

    async def _call(self, function: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
