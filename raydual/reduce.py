"""Measured rows become distributions over seeds, one metric at a time, so that memory does not grow with them."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydual.config import Measures
from raydual.metrics.catalogue import CATALOGUE, OVERALL, Metric
from raydual.metrics.statistics import compare, describe, holm
from raydual.results import COMPARISONS, NO_CONTROL, SUMMARY, RunDirectory, write_table, write_text

Row = dict[str, Any]


def reduce_run(run: RunDirectory) -> pa.Table:
    """Write `summary.parquet`, `comparisons.parquet` and `summary.json` of a run directory; returns the summary."""
    measures = run.config().measures
    failed = Counter(control for _, control, _ in run.failures())
    rows = [row for metric in CATALOGUE.values() for row in _reduce_metric(run, metric, measures, failed)]
    table = pa.Table.from_pylist(rows, schema=SUMMARY)
    write_table(run.summary_file, table, SUMMARY)
    compared = [row for metric in CATALOGUE.values() for row in _compare_metric(run, metric, measures)]
    write_table(run.comparisons_file, pa.Table.from_pylist(compared, schema=COMPARISONS), COMPARISONS)
    write_text(run.path / "summary.json", json.dumps(_headline(run, rows), indent=2, ensure_ascii=False) + "\n")
    return table


def _reduce_metric(run: RunDirectory, metric: Metric, measures: Measures, failed: Counter) -> list[Row]:
    """The rows of one metric, in order of condition, control and layer."""
    table = run.measured(["control", "condition", "layer", "value"], pc.field("metric") == metric.name)
    rows = []
    for condition in metric.conditions:
        of_condition = table.filter(pc.field("condition") == condition)
        for control in sorted(pc.unique(of_condition["control"]).to_pylist(), key=_control_order):
            of_control = of_condition.filter(pc.field("control") == control)
            layers, values = (of_control[name].to_numpy() for name in ("layer", "value"))
            for layer in np.unique(layers).tolist():
                place = {"metric": metric.name, "condition": condition, "control": control, "layer": layer}
                found = describe(
                    values[layers == layer],
                    resamples=measures.resamples,
                    seed=_seed(measures.noise_seed, place),
                )
                rows.append({**place, **asdict(found), "failed": failed[control]})
    return rows


def _compare_metric(run: RunDirectory, metric: Metric, measures: Measures) -> Iterator[Row]:
    """The rows of one metric against each of its baselines, in order of control and layer."""
    condition = metric.conditions[0]
    for baseline, baseline_condition in metric.baselines:
        own, base = _by_place(run, metric.name, condition), _by_place(run, baseline, baseline_condition)
        for control in sorted({control for control, _ in own}, key=_control_order):
            rows = []
            for layer in sorted(layer for of, layer in own if of == control and (of, layer) in base):
                values, others = own[control, layer], base[control, layer]
                seeds = sorted(values.keys() & others.keys())
                place = {
                    "metric": metric.name, "condition": condition, "baseline": baseline,
                    "baseline_condition": baseline_condition, "control": control, "layer": layer,
                }  # fmt: skip
                found = compare(
                    np.array([values[seed] for seed in seeds]), np.array([others[seed] for seed in seeds]),
                    resamples=measures.resamples, seed=_seed(measures.noise_seed, place),
                )  # fmt: skip
                rows.append({**place, **asdict(found)})
            yield from _corrected(rows)


def _by_place(run: RunDirectory, metric: str, condition: str) -> dict[tuple[str, int], dict[int, float]]:
    """The value of every seed, by control and layer."""
    chosen = (pc.field("metric") == metric) & (pc.field("condition") == condition)
    table = run.measured(["control", "layer", "seed", "value"], chosen)
    found: dict[tuple[str, int], dict[int, float]] = {}
    for control, layer, seed, value in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        found.setdefault((control, layer), {})[seed] = value
    return found


def _corrected(rows: list[Row]) -> Iterator[Row]:
    """Holm's correction over the layers; the overall row is one test of its own."""
    layers = [row for row in rows if row["layer"] != OVERALL]
    corrected = dict(zip((r["layer"] for r in layers), holm(np.array([r["p"] for r in layers])), strict=True))
    for row in rows:
        yield {**row, "p_holm": float(corrected[row["layer"]]) if row["layer"] in corrected else row["p"]}


def _control_order(control: str) -> tuple[bool, str]:
    return control != NO_CONTROL, control


def _seed(noise_seed: int, place: Row) -> list[int]:
    """A seed of the place's own, the same on every machine."""
    digest = hashlib.sha256(json.dumps(place, sort_keys=True).encode()).digest()
    return [noise_seed, int.from_bytes(digest[:8], "big")]


def _headline(run: RunDirectory, rows: list[Row]) -> Row:
    """What `summary.json` holds: the overall numbers, and how many seeds they rest on."""
    config = run.config()
    failures = run.failures()
    kept = ("metric", "condition", "control", "n", "undefined", "mean", "sd", "median", "ci_low", "ci_high")
    return {
        "name": config.name,
        "protocol": config.protocol,
        "seeds": {
            "asked": len(config.seeds),
            "measured": len(run.finished()) - len(failures),
            "failed": [{"seed": s, "control": control, "reason": why} for s, control, why in failures],
        },
        "metrics": [
            {"label": CATALOGUE[row["metric"]].label} | {key: _plain(row[key]) for key in kept}
            for row in rows
            if row["layer"] == OVERALL
        ],
    }


def _plain(value: Any) -> Any:
    """NaN is not JSON; null stands for undefined."""
    return None if isinstance(value, float) and math.isnan(value) else value
