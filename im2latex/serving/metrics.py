"""Metrics of the service, which Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST


class ServiceMetrics:
    """The metrics of one service.

    Args:
        queue: returns the number of images that wait or are being read.
        version: returns the version that serves.
    """

    def __init__(self, queue: Callable[[], int], version: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        of_request = ("route", "status")
        self.requests = Counter(
            "im2latex_requests", "Requests answered, by route and HTTP status.", of_request, registry=self._registry
        )
        self.seconds = Histogram(
            "im2latex_request_seconds",
            "From the head of a request to the end of its answer.",
            ("route",),
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=self._registry,
        )
        self.batch = Histogram(
            "im2latex_batch_images",
            "Images that the model read at once.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self._registry,
        )
        self.reloads = Counter(
            "im2latex_reloads",
            "Attempts to load a newer version, by result: served or skipped.",
            ("result",),
            registry=self._registry,
        )
        Gauge("im2latex_queue_images", "Images that wait or are read.", registry=self._registry).set_function(queue)
        Gauge("im2latex_model_version", "The version that serves.", registry=self._registry).set_function(version)

    def register(self, collector: Collector) -> None:
        """Adds the metrics that a collector computes when they are read."""
        self._registry.register(collector)

    def reloaded(self, served: bool) -> None:
        """Counts an attempt to load a newer version."""
        self.reloads.labels("served" if served else "skipped").inc()

    def page(self) -> bytes:
        """Returns the text of /metrics."""
        return generate_latest(self._registry)
