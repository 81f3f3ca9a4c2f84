"""Measured rows become distributions over seeds, one metric at a time, so that memory does not grow with them."""

import hashlib
import json
import math
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydual.config import Measures
from raydual.metrics.catalogue import CATALOGUE, OVERALL, Metric
from raydual.metrics.statistics import describe
from raydual.results import NO_CONTROL, SUMMARY, RunDirectory, write_table, write_text

Row = dict[str, Any]


def reduce_run(run: RunDirectory) -> pa.Table:
    """Write `summary.parquet` and `summary.json` of a run directory; returns the summary (`SUMMARY`)."""
    measures = run.config().measures
    failed = Counter(control for _, control, _ in run.failures())
    rows = [row for metric in CATALOGUE.values() for row in _reduce_metric(run, metric, measures, failed)]
    table = pa.Table.from_pylist(rows, schema=SUMMARY)
    write_table(run.summary_file, table, SUMMARY)
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
