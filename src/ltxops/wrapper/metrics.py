"""What Prometheus reads: counted as jobs end, and looked up when it asks."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ltxops.wrapper.envelope import Outcome
from ltxops.wrapper.schema import BackendHealth

#: Seconds. A clip takes from seconds to a quarter of an hour.
BUCKETS = (0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600)
PARTS = ("queued", "preprocess", "generation", "postprocess", "total")


class Metrics:
    """The metrics of one wrapper; the three callables say how things stand when Prometheus asks."""

    def __init__(
        self,
        counts: Callable[[], Mapping[str, int]],
        backends: Callable[[], list[BackendHealth]],
        deliveries: Callable[[], Mapping[str, int]],
    ) -> None:
        self._registry = CollectorRegistry()
        self._ended = Counter("ltxops_jobs", "Jobs that ended, by how.", ["status"], registry=self._registry)
        self._refused = Counter(
            "ltxops_requests_refused", "Requests that became no job, by HTTP status.", ["status"],
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "ltxops_job_seconds", "How long the parts of jobs took.", ["part"], buckets=BUCKETS,
            registry=self._registry,
        )  # fmt: skip
        for status in ("completed", "failed", "cancelled"):
            self._ended.labels(status)
        self._registry.register(_Standing(counts, backends, deliveries))

    def ended(self, outcome: Outcome) -> None:
        """Count a job that ended."""
        self._ended.labels(outcome.body["status"]).inc()
        timings = outcome.body["timings"]
        for part in PARTS:
            if part in timings:
                self._seconds.labels(part).observe(timings[part] / 1000)

    def refused(self, status: int) -> None:
        """Count a request that became no job."""
        self._refused.labels(str(status)).inc()

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _Standing(Collector):
    def __init__(
        self,
        counts: Callable[[], Mapping[str, int]],
        backends: Callable[[], list[BackendHealth]],
        deliveries: Callable[[], Mapping[str, int]],
    ) -> None:
        self._counts, self._backends, self._deliveries = counts, backends, deliveries

    def collect(self) -> Iterator[Metric]:
        """Give what is known now."""
        unfinished = GaugeMetricFamily("ltxops_jobs_unfinished", "Jobs that wait or run.", labels=["state"])
        for state, number in self._counts().items():
            unfinished.add_metric([state], number)
        yield unfinished
        up = GaugeMetricFamily("ltxops_backend_up", "1 while the ComfyUI takes jobs.", labels=["backend"])
        fault = GaugeMetricFamily(
            "ltxops_backend_gpu_fault", "1 while its GPU is broken.", labels=["backend"]
        )
        for one in self._backends():
            up.add_metric([one.url], one.state in ("up", "slow"))
            fault.add_metric([one.url], one.state == "faulty")
        yield up
        yield fault
        delivered = CounterMetricFamily(
            "ltxops_deliveries",
            "Uploads, webhook calls and fetched inputs, by how they ended.",
            labels=["event"],
        )
        for event, number in self._deliveries().items():
            delivered.add_metric([event], number)
        yield delivered
