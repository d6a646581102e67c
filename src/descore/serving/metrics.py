"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server, in a registry of its own.

    >>> metrics = Metrics()
    >>> metrics.items.labels("main", "failed").inc()
    >>> 'descore_items_total{model="main",outcome="failed"} 1.0' in metrics.text()
    True
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "descore_requests", "Requests by route and status.", ("route", "status"), registry=registry
        )
        self.items = Counter("descore_items", "Videos by model and outcome.", ("model", "outcome"), registry=registry)
        self.seconds = Histogram(
            "descore_item_seconds", "Seconds from a video's arrival to its record.", buckets=_SECONDS, registry=registry
        )
        self.batch = Histogram("descore_batch_videos", "Videos scored together.", buckets=_BATCH, registry=registry)
        self.queue = Gauge("descore_queue_videos", "Videos that wait for a worker.", registry=registry)
        self.running = Gauge("descore_running_videos", "Videos that workers have.", registry=registry)
        self.held = Gauge("descore_held_bytes", "Bytes of bodies and videos in work.", registry=registry)
        self.workers = Gauge("descore_ready_workers", "Workers that are ready.", registry=registry)
        self.deaths = Counter("descore_worker_deaths", "Workers that died and were replaced.", registry=registry)

    def text(self) -> str:
        """Return all values in the text format of Prometheus."""
        return generate_latest(self.registry).decode()
