"""Figures of how a number runs through the layers, beside its nulls and its controls."""

from collections.abc import Iterator, Sequence
from typing import Any

from raydual.catalogue.entries import Metric
from raydual.report import theme
from raydual.report.charts import Chart, Row, interval_hover, limits, looks, only, word
from raydual.report.data import RunData
from raydual.report.panels import Drawn, panels_through_layers
from raydual.report.standing import standings
from raydual.report.words import digits_of
from raydual.settings.controls import Control

_HEIGHT = 280


def layer_charts(data: RunData) -> list[Chart]:
    """Mean over seeds in each layer with its interval and quartiles: a chart for each metric that is compared.

    A metric stands with its baselines and its controls; what is there under several conditions has them together.
    """
    charts: list[Chart] = []
    for title, drawn in panels_through_layers(data.catalogue):
        mine = [one for one in drawn if not one.baseline and one.metric.baselines == drawn[0].metric.baselines]
        if not any(one.metric.similarity and one.condition == "icl-ft" for one in mine):
            charts += _chart(data, title, drawn, [])
            continue
        for one in mine:
            beside = [other for other in drawn if other.key in one.metric.baselines]
            charts += _chart(data, one.metric.label, [one, *beside], data.controls)
    return charts


def _chart(data: RunData, title: str, drawn: Sequence[Drawn], controls: Sequence[Control]) -> Iterator[Chart]:
    own = drawn[0]
    series = [(one.name, one.look, one.baseline, data.layers(*one.key)) for one in drawn]
    is_alone = own.metric.similarity and own.condition == "icl-ft"
    if is_alone:
        series[0] = ("measured", theme.MAIN, False, series[0][-1])
    null_looks, variant_looks = theme.nulls(), theme.variants()
    for _ in range(sum(one.baseline for one in drawn)):
        next(null_looks)
    for control in controls:
        rows = data.control_layers.get((*own.key, control.name), [])
        if rows:
            look = next(null_looks if control.is_null else variant_looks)
            series.append((control.label, look, True, rows))
    above = {
        layer for one in standings(data) if is_alone and one.metric.name == own.metric.name for layer in one.layers
    }
    rows = [
        _row(name, one, aside, place == 0 and one["layer"] in above)
        for place, (name, _, aside, of_layers) in enumerate(series)
        for one in of_layers
        if one["n"]
    ]
    if not rows:
        return
    names = list(dict.fromkeys(row["series"] for row in rows))
    of_name = {name: look for name, look, _, _ in reversed(series)}
    place = own.metric.name if is_alone else f"{own.metric.panel_of(own.condition)}-{own.metric.name}"
    yield Chart(
        f"layers-{place}",
        title,
        _description(rows, names, above, digits_of(own.metric)),
        rows,
        {"layer": _marks(rows, own.metric, above, names, [of_name[n] for n in names])},
        tuple(dict.fromkeys(one.metric.name for one in drawn)),
        height=_HEIGHT + 17 * max(0, (len(names) - 1) // 2 - 1),
    )


def _row(series: str, row: Row, aside: bool, above: bool) -> Row:
    names = ("metric", "condition", "control", "layer", "n", "mean", "ci_low", "ci_high", "q25", "q75")
    found = {"series": series, **{name: row[name] for name in names}, "above_every_null": above}
    return found | {"_aside": aside}


def _marks(
    rows: list[Row], metric: Metric, above: set[int], names: list[str], drawn: list[theme.Look]
) -> list[dict[str, Any]]:
    inner = [row["mean"] for row in rows] + [
        row[name] for row in rows if not row["_aside"] for name in ("ci_low", "ci_high")
    ]
    domain = limits(inner, metric, zero=metric.bounds[0] is None or metric.bounds[0] < 0)
    layers = sorted({row["layer"] for row in rows})
    x = {
        "field": "layer",
        "type": "quantitative",
        "title": "layer",
        "scale": {"domain": [layers[0] - 0.3, layers[-1] + 0.3], "nice": False},
        "axis": {
            "values": layers if len(layers) <= 12 else layers[:: -(-len(layers) // 9)],
            "format": "d",
            "grid": False,
        },
    }
    y: dict[str, Any] = {
        "type": "quantitative",
        "title": None,
        "scale": {"domain": domain, "nice": False, "zero": False},
    }
    encoded = looks(names, drawn)
    colour = {"color": encoded["color"]}

    def band(low: str, high: str, opacity: float) -> dict[str, Any]:
        return {
            "transform": only(_aside=False),
            "mark": {"type": "area", "opacity": opacity, "clip": True},
            "encoding": {"x": x, "y": {"field": low, **y}, "y2": {"field": high}, **colour},
        }

    marks: list[dict[str, Any]] = []
    if domain[0] < 0 < domain[1]:
        marks.append({"data": {"values": [{"at": 0}]}, "mark": "rule", "encoding": {"y": {"field": "at", **y}}})
    marks += [
        band("q25", "q75", 0.13),
        band("ci_low", "ci_high", 0.28),
        {
            "mark": {"type": "line", "strokeWidth": 1.8},
            "encoding": {
                "x": x,
                "y": {"field": "mean", **y},
                "color": encoded["color"],
                "strokeDash": encoded["strokeDash"],
            },
        },
        {
            "mark": {"type": "point", "size": 34, "filled": True, "opacity": 1},
            "encoding": {
                "x": x,
                "y": {"field": "mean", **y},
                "color": encoded["color"],
                "shape": encoded["shape"],
                "tooltip": interval_hover(digits_of(metric), word("series", "series"), word("layer", "layer")),
            },
        },
    ]
    if above:
        marks.append(
            {
                "transform": only(above_every_null=True),
                "mark": {"type": "text", "text": "▲", "y": 7, "fontSize": 12, "color": theme.colour("main")},
                "encoding": {"x": x},
            }
        )
    return marks


def _description(rows: list[Row], names: list[str], above: set[int], digits: int) -> str:
    parts = []
    for name in names:
        means = [(row["mean"], row["layer"]) for row in rows if row["series"] == name]
        (low, at_low), (high, at_high) = min(means), max(means)
        parts.append(f"{name}: lowest {low:.{digits}f} in layer {at_low}, highest {high:.{digits}f} in layer {at_high}")
    marked = f" Above every null in layer {', '.join(map(str, sorted(above)))}." if above else ""
    return f"Mean over seeds by layer. {'; '.join(parts)}.{marked}"
