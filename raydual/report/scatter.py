"""Figures of seeds: how well the context or fine-tuning answers, against how alike the two are."""

from typing import Any

import numpy as np

from raydual.catalogue.entries import CONDITIONS, Metric
from raydual.report import theme
from raydual.report.charts import Chart, Row, limits, looks, number, word
from raydual.report.data import RunData
from raydual.report.distributions import thinned
from raydual.report.words import digits_of


def scatter_charts(data: RunData) -> list[Chart]:
    """Accuracy of every seed in context and fine-tuned, against each similarity."""
    keys = [(metric, (metric.name, "icl-ft")) for metric in data.catalogue.values() if metric.similarity]
    return [_chart(data, metric) for metric, key in keys if key in data.seed_values]


def _chart(data: RunData, metric: Metric) -> Chart:
    rows = [row for condition in ("icl", "ft") for row in _rows(data, metric, condition)]
    x: dict[str, Any] = {
        "field": "accuracy",
        "type": "quantitative",
        "title": "accuracy",
        "scale": {"domain": limits([row["accuracy"] for row in rows], data.catalogue["accuracy"]), "nice": False},
    }
    y: dict[str, Any] = {
        "field": "value",
        "type": "quantitative",
        "title": None,
        "scale": {"domain": limits([row["value"] for row in rows], metric), "nice": False},
    }
    encoded = looks([CONDITIONS[c] for c in ("icl", "ft")], [theme.OF_CONDITION[c] for c in ("icl", "ft")])
    spec = {
        "mark": {"type": "point", "filled": True, "size": 34, "opacity": 0.75},
        "encoding": {
            "x": x,
            "y": y,
            "color": encoded["color"],
            "shape": encoded["shape"],
            "tooltip": [
                word("seed", "seed"),
                word("series", "accuracy of"),
                number("accuracy", "accuracy"),
                number("value", metric.label, digits_of(metric)),
            ],
        },
    }
    count = len({row["seed"] for row in rows})
    return Chart(
        f"scatter-{metric.name}",
        metric.label,
        f"{metric.label} of {count} seeds against their in-context and fine-tuned accuracy.",
        rows,
        spec,
        (metric.name,),
        height=250,
    )


def _rows(data: RunData, metric: Metric, condition: str) -> list[Row]:
    accuracy = (
        dict(
            zip(
                data.seeds_of["accuracy", condition].tolist(),
                data.seed_values["accuracy", condition].tolist(),
                strict=True,
            )
        )
        if ("accuracy", condition) in data.seed_values
        else {}
    )
    seeds, values = data.seeds_of[metric.name, "icl-ft"], data.seed_values[metric.name, "icl-ft"]
    kept = np.flatnonzero(~np.isnan(values))
    kept = kept[thinned(kept)]
    return [
        {"series": CONDITIONS[condition], "seed": seed, "accuracy": accuracy[seed], "value": value}
        for seed, value in zip(seeds[kept].tolist(), values[kept].tolist(), strict=True)
        if seed in accuracy and not np.isnan(accuracy[seed])
    ]
