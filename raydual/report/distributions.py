"""Figures of how a number is spread over seeds."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from raydual.catalogue.entries import Panel
from raydual.report import theme
from raydual.report.charts import Chart, Row, interval_hover, limits, number, only, raw, word
from raydual.report.data import RunData
from raydual.report.panels import Drawn, has_negative, panels_over_seeds
from raydual.report.words import digits_of, with_interval

MOST_POINTS = 300


def distribution_charts(data: RunData) -> list[Chart]:
    """Every seed's value of each headline metric, with its baselines beside it: a chart for each panel."""
    return [_chart(data, panel, drawn) for panel, drawn in panels_over_seeds(data.catalogue)]


def thinned(values: np.ndarray) -> np.ndarray:
    """Places of at most `MOST_POINTS` of the values, evenly spread: more would hide each other."""
    return np.arange(len(values))[:: -(-len(values) // MOST_POINTS) or 1]


def _chart(data: RunData, panel: Panel, drawn: Sequence[Drawn]) -> Chart:
    strips = [one for one in drawn if one.key in data.seed_values]
    rows = [row for place, strip in enumerate(strips) for row in _rows(data, place, strip)]
    names = [_wrapped(one.name) for one in strips]
    metric = drawn[0].metric
    domain = limits(
        [row["value" if row["kind"] == "seed" else "mean"] for row in rows], metric, zero=has_negative(drawn)
    )
    y: dict[str, Any] = {
        "type": "quantitative",
        "scale": {"domain": domain, "nice": False, "zero": False},
        "title": None,
    }
    digits = digits_of(metric)
    x: dict[str, Any] = {
        "type": "quantitative",
        "scale": {"domain": [-0.5, max(len(strips), 1) - 0.5], "nice": False},
        "axis": {
            "values": list(range(len(strips))),
            "labelExpr": f"{json.dumps(names)}[datum.value]",
            "grid": False,
            "ticks": False,
            "title": None,
            "domain": False,
        },
    }
    ink: dict[str, Any] = {"color": raw("_colour")}

    def from_to(mark: dict[str, Any], place: str, low: str, high: str) -> dict[str, Any]:
        span = {"x": {"field": place, **x}, "y": {"field": low, **y}, "y2": {"field": high}}
        return {"transform": only(kind="mean"), "mark": mark, "encoding": {**span, **ink}}

    layers: list[dict[str, Any]] = [
        *(
            [{"data": {"values": [{"at": 0}]}, "mark": "rule", "encoding": {"y": {"field": "at", **y}}}]
            if has_negative(drawn)
            else []
        ),
        {
            "transform": only(kind="seed"),
            "mark": {"type": "point", "size": 18, "filled": True, "opacity": 0.55},
            "encoding": {
                "x": {"field": "_x", **x},
                "y": {"field": "value", **y},
                **ink,
                "shape": raw("_shape"),
                "tooltip": [word("series", "series"), word("seed", "seed"), number("value", "value", digits)],
            },
        },
        from_to({"type": "rule", "strokeWidth": 1}, "_box", "min", "max"),
        from_to({"type": "bar", "width": 9, "opacity": 0.35}, "_box", "q25", "q75"),
        from_to({"type": "rule", "strokeWidth": 2}, "_at", "ci_low", "ci_high"),
        {
            "transform": only(kind="mean"),
            "mark": {"type": "point", "shape": "diamond", "size": 70, "opacity": 1, "strokeWidth": 1.5},
            "encoding": {
                "x": {"field": "_at", **x},
                "y": {"field": "mean", **y},
                **ink,
                "fill": raw("_fill"),
                "tooltip": interval_hover(digits, word("series", "series")),
            },
        },
    ]
    means = (f"{row['series']} {with_interval(row, digits)} (n = {row['n']})" for row in rows if row["kind"] == "mean")
    return Chart(
        f"seeds-{metric.panel_of(drawn[0].condition)}",
        panel.title,
        f"Values of every seed; mean and 95 % interval: {'; '.join(means) or 'no seed was measured'}.",
        rows,
        {"layer": layers},
        tuple(dict.fromkeys(one.metric.name for one in drawn)),
    )


def _wrapped(name: str) -> list[str]:
    """A name in lines of a word or two."""
    return [name] if len(name) < 12 else name.replace("-", "- ").split(" ")


def _rows(data: RunData, place: int, strip: Drawn) -> Iterator[Row]:
    values, seeds = data.seed_values[strip.key], data.seeds_of[strip.key]
    about = {"metric": strip.metric.name, "condition": strip.condition, "series": strip.name}
    looks = {"_colour": strip.look.colour, "_shape": strip.look.shape}
    defined = np.flatnonzero(~np.isnan(values))
    shown = defined[thinned(defined)]
    for seed, value, aside in zip(seeds[shown].tolist(), values[shown].tolist(), _spread(values[shown]), strict=True):
        yield {"kind": "seed", **about, "seed": seed, "value": value, **looks, "_x": place - 0.22 + float(aside)}
    row = data.overall(*strip.key)
    if row and row["n"]:
        fill = theme.colour("card") if strip.baseline else strip.look.colour
        names = ("n", "mean", "ci_low", "ci_high", "min", "q25", "median", "q75", "max")
        numbers = {name: row[name] for name in names}
        yield {"kind": "mean", **about, **numbers, **looks, "_fill": fill, "_box": place + 0.08, "_at": place + 0.26}


def _spread(values: np.ndarray) -> np.ndarray:
    """Sideways offsets that keep close values apart, the same each time."""
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    golden = (order * 0.618034) % 1.0
    return (golden - 0.5) * 0.3
