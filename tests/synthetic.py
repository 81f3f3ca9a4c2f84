"""A run directory with random values of realistic size, as the pipeline writes it, in no time."""

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from raydual.catalogue.entries import OVERALL, Catalogue, Metric
from raydual.run_directory.directory import (
    FAILED,
    FINETUNE_SEARCH,
    NO_CONTROL,
    SEED_SEARCH,
    RunDirectory,
    measurement_table,
)
from raydual.settings.reading import validate_config
from raydual.settings.schema import SweepConfig

from .default_catalogue import CATALOGUE

REASON = "its prompt has 2101 tokens, more than the context of 2048 holds"
_CENTRES = {"accuracy": 0.8, "greedy_accuracy": 0.7, "lambda": 0.6, "update_norm": 1.7, "rec2ftp": 61.0}


def synthetic_config(seeds: int = 11, search: bool = True, **over: Any) -> SweepConfig:
    """The sweep that the values pretend to come from; few resamples, to be quick."""
    searched = {"seeds": {"keep": seeds, "slices": [25, 50]}, "finetune": {"learning_rate": [1e-3, 1e-2]}}
    settings = {
        "name": "synthetic",
        "task": "sst2",
        "data": "hub",
        "seeds": seeds,
        "split": {"selection": 50},
        "search": searched if search else {},
        "measures": {"resamples": 200},
    }
    return validate_config({**settings, **over}, "synthetic")


def control_rows(control: str, shift: float, seeds: int, layers: int) -> Iterator[dict[str, Any]]:
    """The rows of a control whose seeds have the measurement's values less `shift`, give or take a hundredth."""
    for row in synthetic_rows(seeds, layers, ()):
        jitter = random.Random(f"{control} {row['seed']} {row['metric']} {row['layer']}").uniform(-0.01, 0.01)
        yield {**row, "control": control, "value": row["value"] - shift + jitter}


def synthetic_rows(
    seeds: int, layers: int, failed: Sequence[int], catalogue: Catalogue = CATALOGUE
) -> Iterator[dict[str, Any]]:
    """Rows of every metric; of each seed's per-layer values one in ten, and seed 2's recall, are undefined."""
    for seed in range(seeds):
        if seed in failed:
            yield _row(seed, FAILED, "", OVERALL, math.nan, REASON)
            continue
        draw = random.Random(seed)
        for metric in catalogue.values():
            for condition in metric.conditions_with_labels(2):
                yield from _metric_rows(draw, seed, metric, condition, layers)


def _metric_rows(
    draw: random.Random, seed: int, metric: Metric, condition: str, layers: int
) -> Iterator[dict[str, Any]]:
    values = [_value(draw, metric) for _ in range(layers if metric.per_layer else 0)]
    for layer, value in enumerate(values):
        undefined = draw.random() < 0.1
        yield _row(seed, metric.name, condition, layer, math.nan if undefined else value)
    overall = sum(values) / len(values) if values else _value(draw, metric)
    yield _row(seed, metric.name, condition, OVERALL, math.nan if (metric.name, seed) == ("rec2ftp", 2) else overall)


def _value(draw: random.Random, metric: Metric) -> float:
    if metric.name.startswith("rec2ftp_"):
        return float(draw.randrange(3, 60))
    low, high = metric.bounds
    centre = _CENTRES.get(metric.name, 0.15)
    value = draw.gauss(centre, 10.0 if high == 100 else 0.1)
    return min(math.inf if high is None else high, max(-math.inf if low is None else low, value))


def _row(seed: int, metric: str, condition: str, layer: int, value: float, reason: str | None = None) -> dict[str, Any]:
    undefined = math.isnan(value)
    return {
        "seed": seed,
        "control": NO_CONTROL,
        "metric": metric,
        "condition": condition,
        "layer": layer,
        "value": value,
        "examples": 0 if undefined else 300,
        "undefined": 300 if undefined else 0,
        "reason": reason or ("no example has a value" if undefined else None),
    }


def synthetic_run(
    path: Path | str,
    seeds: int = 11,
    layers: int = 5,
    failed: Sequence[int] = (4,),
    *,
    search: bool = True,
    manifest: bool = True,
    seeds_per_file: int = 3,
    shuffle: int | None = None,
    **over: Any,
) -> RunDirectory:
    """Write measurements, search tables and manifest under `path`; `shuffle` puts the rows in random order,
    `over` goes to the settings."""
    run, config = RunDirectory(path), synthetic_config(seeds, search, **over)
    run.start(config)
    if search:
        _write_search(run, seeds)
    rows = list(synthetic_rows(seeds, layers, failed, config.catalogue))
    order = list(range(seeds))
    if shuffle is not None:
        random.Random(shuffle).shuffle(rows)
        random.Random(shuffle).shuffle(order)
    for start in range(0, seeds, seeds_per_file):
        batch = order[start : start + seeds_per_file]
        run.write_measurements(measurement_table(row for row in rows if row["seed"] in batch))
    if manifest:
        run.write_manifest(_manifest(config, seeds, failed))
    return run


def _write_search(run: RunDirectory, seeds: int) -> None:
    """Candidates of which some were stopped and one could not be scored; settings of which one diverged."""
    draw = random.Random(0)
    candidates = [
        {
            "seed": seed,
            "examples": 25 if seed >= seeds + 3 else 50,
            "accuracy": math.nan if seed == seeds + 1 else draw.uniform(0.5, 1),
            "stopped_at": 25 if seed >= seeds + 3 else None,
            "kept": seed < seeds,
            "reason": REASON if seed == seeds + 1 else None,
        }
        for seed in range(seeds + 5)
    ]
    settings = [
        {
            "optimizer": optimizer,
            "learning_rate": rate,
            "epochs": epochs,
            "accuracy": math.nan if diverged else draw.uniform(0.5, 1),
            "greedy_accuracy": math.nan if diverged else draw.uniform(0.5, 1),
            "loss": math.nan if diverged else draw.uniform(1, 3),
            "diverged": 4 if diverged else 0,
            "chosen": (optimizer, rate, epochs) == ("sgd", 1e-2, 1),
        }
        for optimizer, epochs in (("sgd", 1), ("adamw", 2))
        for rate in (1e-3, 1e-2, 1e-1)
        for diverged in [rate == 1e-1 and optimizer == "adamw"]
    ]
    run.write_seed_search(pa.Table.from_pylist(candidates, SEED_SEARCH))
    run.write_finetune_search(pa.Table.from_pylist(settings, FINETUNE_SEARCH))


def _manifest(config: SweepConfig, seeds: int, failed: Sequence[int]) -> dict[str, Any]:
    return {
        "name": config.name,
        "fingerprint": config.fingerprint(),
        "finished_at": "2025-01-02T03:04:05Z",
        "seeds": {
            "asked": seeds,
            "chosen": list(range(seeds)),
            "measured": seeds - len(failed),
            "failed": [{"seed": seed, "control": NO_CONTROL, "reason": REASON} for seed in failed],
        },
        "finetune": config.finetune.model_copy(update={"learning_rate": 1e-2}).model_dump(mode="json"),
        "seconds": {"start ray": 3.21, "search": 12.0, "measure": 61.5, "reduce": 0.4},
        "hardware": {"ray": "1 node, 16 CPU, 1 GPU", "cpus": 16.0, "gpus": 1.0, "machine": "x86_64", "system": "Linux"},
        "versions": {"python": "3.11.7", "ray": "2.60.0", "torch": "2.8.0"},
    }
