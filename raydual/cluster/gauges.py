"""The gauges of a run, as Ray's metrics and Prometheus know them."""

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
"""Name → tag keys. Prometheus sees each name with the prefix `ray_`."""
