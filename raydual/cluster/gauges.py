"""What Ray's metrics say of a run: `ray_raydual_…`, scraped by Prometheus, drawn by Grafana."""

import threading

from ray.util.metrics import Gauge

METRICS: dict[str, tuple[str, ...]] = {
    "raydual_units": ("run", "stage", "control", "outcome"),
    "raydual_trials": ("run", "state"),
    "raydual_units_per_second": ("run", "stage"),
    "raydual_tokens_per_second": ("run", "stage"),
    "raydual_mean": ("run", "metric", "condition"),
    "raydual_replica_memory_bytes": ("run", "replica"),
    "raydual_seconds_left": ("run", "stage"),
    "raydual_replicas": ("run", "state"),
}
"""Every gauge and its tags."""

DESCRIPTIONS = {
    "raydual_units": "Seeds and controls of seeds: asked, done, failed in the whole run, retried by this process",
    "raydual_trials": "Trials of the search: running, done, stopped early",
    "raydual_units_per_second": "Seeds and controls of seeds (in the search: trials) per second",
    "raydual_tokens_per_second": "Tokens that go through the models of all replicas per second",
    "raydual_mean": "Mean over the seeds measured so far, of the measurement itself",
    "raydual_replica_memory_bytes": "Memory that a replica's process holds on its node",
    "raydual_seconds_left": "Estimated seconds until the stage is done",
    "raydual_replicas": "Replicas: asked for, loading, ready, busy, lost",
}
"""What each says."""


class Gauges:
    """The gauges of a run; what a stage knows goes in, Ray's metrics agents serve it.

    Ray forgets a value that has not been set for two reports (of 10 seconds), so whoever holds the gauges calls
    `refresh`. Until that ends a value stays, also that of a run that is over when `run` is set to the name of the next.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        self._gauges = {name: Gauge(name, DESCRIPTIONS[name], tag_keys=tags) for name, tags in METRICS.items()}
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._lock = threading.Lock()

    def set(self, name: str, value: float, **tags: str) -> None:
        """Set a gauge; `run` is added to its tags."""
        tags = {"run": self.run, **tags}
        with self._lock:
            self._values[name, tuple(tags.items())] = value
            self._gauges[name].set(value, tags=tags)

    def refresh(self) -> None:
        """Set every value once more."""
        with self._lock:
            for (name, tags), value in self._values.items():
                self._gauges[name].set(value, tags=dict(tags))
