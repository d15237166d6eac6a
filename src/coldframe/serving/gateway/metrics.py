"""What Prometheus reads: counts and times, by route and adapter; no text and no key."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The figures of one gateway, in a registry of their own.

    Args:
        waiting: Tells how many inputs are in the queue.
        adapters: Tells how many adapters there are.
    """

    def __init__(self, waiting: Callable[[], float], adapters: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.requests = Counter(
            "coldframe_requests", "Requests, answered or refused", ("route", "adapter", "status"), registry=own
        )
        self.seconds = Histogram(
            "coldframe_request_seconds",
            "From a request to its answer",
            ("route", "adapter"),
            buckets=_SECONDS,
            registry=own,
        )
        self.inputs = Counter("coldframe_inputs", "Inputs that were answered", ("adapter",), registry=own)
        self.tokens = Counter("coldframe_tokens", "Positions that the model read", ("adapter",), registry=own)
        self.batches = Histogram(
            "coldframe_batch_inputs", "Inputs that were answered together", buckets=_SIZES, registry=own
        )
        self._waiting = Gauge("coldframe_waiting_inputs", "Inputs in the queue", registry=own)
        self._waiting.set_function(waiting)
        self._adapters = Gauge("coldframe_adapters", "Adapters that can be asked", registry=own)
        self._adapters.set_function(adapters)

    def text(self) -> bytes:
        """All figures, as Prometheus reads them."""
        return generate_latest(self.registry)

    def forget(self, adapter: str) -> None:
        """Drop the figures of an adapter that was taken away."""
        for metric in (self.requests, self.seconds, self.inputs, self.tokens):
            metric.remove_by_labels({"adapter": adapter})
