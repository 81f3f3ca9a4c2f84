"""Measured rows become distributions over seeds, one metric at a time, so that memory does not grow with them."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int

from raydual.controls import report_order
from raydual.metrics.bootstrap import Bootstrap
from raydual.metrics.catalogue import CATALOGUE, OVERALL
from raydual.metrics.statistics import compare_all, describe_all, holm
from raydual.results import COMPARISONS, NO_CONTROL, SUMMARY, RunDirectory

Row = dict[str, Any]


def reduce_run(run: RunDirectory) -> pa.Table:
    """Write `summary.parquet`, `comparisons.parquet` and `summary.json` of a run directory; returns the summary."""
    measures = run.config().measures
    labels = len(run.config().task.label_words)
    bootstrap = Bootstrap(measures.resamples, measures.noise_seed)
    failed = Counter(control for _, control, _ in run.failures())
    rows: list[Row] = []
    compared: list[Row] = []
    for metric in CATALOGUE.values():
        conditions = metric.conditions_with_labels(labels)
        values = {condition: _values(run, metric.name, condition) for condition in conditions}
        for condition, own in values.items():
            rows += _distributions(metric.name, condition, own, bootstrap, failed)
        for condition in metric.conditions:
            for baseline, baseline_condition in metric.baselines:
                if (baseline, baseline_condition) != (metric.name, condition):
                    base = _values(run, baseline, baseline_condition)
                    place = {"metric": metric.name, "condition": condition}
                    place |= {"baseline": baseline, "baseline_condition": baseline_condition}
                    compared += _against_baseline(place, values[condition], base, bootstrap)
            compared += _against_controls(metric.name, condition, values[condition], bootstrap)
    table = pa.Table.from_pylist(rows, schema=SUMMARY)
    run.write_summary(table, pa.Table.from_pylist(compared, schema=COMPARISONS), _headline(run, rows))
    return table


@dataclass(frozen=True)
class Values:
    """A metric under one condition: the value of each control, layer and seed, and which of them were measured."""

    controls: Sequence[str]
    layers: Int[np.ndarray, "layers"]
    seeds: Int[np.ndarray, "seeds"]
    values: Float[np.ndarray, "controls layers seeds"]
    measured: Bool[np.ndarray, "controls layers seeds"]


def _values(run: RunDirectory, metric: str, condition: str) -> Values:
    chosen = (pc.field("metric") == metric) & (pc.field("condition") == condition)
    table = run.measured(["control", "layer", "seed", "value"], chosen)
    controls = sorted(pc.unique(table["control"]).to_pylist(), key=report_order)
    at = pc.index_in(table["control"], pa.array(controls, pa.string())).to_numpy()
    layers, layer_at = np.unique(table["layer"].to_numpy(), return_inverse=True)
    seeds, seed_at = np.unique(table["seed"].to_numpy(), return_inverse=True)
    values = np.full((len(controls), len(layers), len(seeds)), np.nan)
    measured = np.zeros(values.shape, bool)
    values[at, layer_at, seed_at] = table["value"].to_numpy()
    measured[at, layer_at, seed_at] = True
    return Values(controls, layers, seeds, values, measured)


def _distributions(metric: str, condition: str, own: Values, bootstrap: Bootstrap, failed: Counter) -> Iterator[Row]:
    """The rows of one metric and condition, in order of control and layer."""
    places = [(c, i) for c in range(len(own.controls)) for i in range(len(own.layers)) if own.measured[c, i].any()]
    found = describe_all([own.values[place][own.measured[place]] for place in places], bootstrap)
    for (at, layer), distribution in zip(places, found, strict=True):
        control = own.controls[at]
        place = {"metric": metric, "condition": condition, "control": control, "layer": int(own.layers[layer])}
        yield {**place, **asdict(distribution), "failed": failed[control]}


def _against_baseline(place: Row, own: Values, base: Values, bootstrap: Bootstrap) -> Iterator[Row]:
    """A metric beside a baseline of the same control."""
    for at, control in enumerate(own.controls):
        if control in base.controls:
            names = {**place, "control": control, "baseline_control": control}
            yield from _compared(names, *_paired(own, at, base, base.controls.index(control)), bootstrap)


def _against_controls(metric: str, condition: str, own: Values, bootstrap: Bootstrap) -> list[Row]:
    """The measurement beside every control; the overall rows are corrected for the number of controls."""
    if NO_CONTROL not in own.controls:
        return []
    place = {"metric": metric, "condition": condition, "baseline": metric, "baseline_condition": condition}
    rows: list[Row] = []
    for at, control in enumerate(own.controls):
        if control != NO_CONTROL:
            names = {**place, "control": NO_CONTROL, "baseline_control": control}
            rows += _compared(names, *_paired(own, own.controls.index(NO_CONTROL), own, at), bootstrap)
    overall = [row for row in rows if row["layer"] == OVERALL]
    for row, p in zip(overall, holm(np.array([row["p"] for row in overall])), strict=True):
        row["p_holm"] = float(p)
    return rows


def _paired(
    own: Values, at: int, base: Values, base_at: int
) -> tuple[Int[np.ndarray, "layers"], Float[np.ndarray, "layers seeds"]]:
    """The layers of both, and the differences there, paired over seeds; NaN where one is missing or undefined."""
    layers, own_layers, base_layers = np.intersect1d(own.layers, base.layers, return_indices=True)
    _, own_seeds, base_seeds = np.intersect1d(own.seeds, base.seeds, return_indices=True)
    return layers, own.values[at][np.ix_(own_layers, own_seeds)] - base.values[base_at][np.ix_(base_layers, base_seeds)]


def _compared(
    names: Row, layers: Int[np.ndarray, "layers"], differences: Float[np.ndarray, "layers seeds"], bootstrap: Bootstrap
) -> list[Row]:
    """A row for each layer, corrected by Holm over the layers; the overall row is one test of its own."""
    found = compare_all(list(differences), bootstrap)
    rows = [
        {**names, "layer": layer, **asdict(comparison), "p_holm": comparison.p}
        for layer, comparison in zip(layers.tolist(), found, strict=True)
    ]
    of_layers = [row for row in rows if row["layer"] != OVERALL]
    for row, p in zip(of_layers, holm(np.array([row["p"] for row in of_layers])), strict=True):
        row["p_holm"] = float(p)
    return rows


def _headline(run: RunDirectory, rows: list[Row]) -> Row:
    """What `summary.json` holds: the overall numbers, and how many seeds they rest on."""
    config = run.config()
    failures = run.failures()
    finished = {seed for seed, control in run.finished() if control == NO_CONTROL}
    failed = {seed for seed, control, _ in failures if control == NO_CONTROL}
    kept = ("metric", "condition", "control", "n", "undefined", "mean", "sd", "median", "ci_low", "ci_high")
    return {
        "name": config.name,
        "protocol": config.protocol,
        "seeds": {
            "asked": len(config.seeds),
            "measured": len(finished - failed),
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
