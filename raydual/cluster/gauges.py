"""What Ray's metrics say of a run: `ray_raydual_…`, scraped by Prometheus, drawn by Grafana."""

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

    A gauge is served as long as this process is connected, and two reports (of 10 seconds) longer. `run` may be set to
    the name of the next run in the same process.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        self._gauges = {name: Gauge(name, DESCRIPTIONS[name], tag_keys=tags) for name, tags in METRICS.items()}

    def set(self, name: str, value: float, **tags: str) -> None:
        """Set a gauge; `run` is added to its tags."""
        self._gauges[name].set(value, tags={"run": self.run, **tags})
