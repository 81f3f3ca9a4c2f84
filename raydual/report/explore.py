"""A figure to be asked: any metric in any layer, the measurement beside its controls."""

from raydual.report import theme
from raydual.report.charts import BROAD, Chart, Row, interval_hover, raw, series_axis, word
from raydual.report.controls import title_of
from raydual.report.data import RunData
from raydual.settings.controls import MEASUREMENT

_ALL = "all layers"
_MOST_ROWS = 6000


def explore_charts(data: RunData) -> list[Chart]:
    """One chart with a choice of metric and layer; none where there is nothing to choose, or too much to carry."""
    rows = [row for metric, condition in data.catalogue.in_figures() for row in _rows(data, metric, condition)]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    if not rows or len(rows) > _MOST_ROWS:
        return []
    x = {"type": "quantitative", "title": None, "scale": {"zero": False}}
    y = {
        "field": "series",
        "type": "nominal",
        "sort": None,
        "title": None,
        "axis": series_axis(dict.fromkeys(row["series"] for row in rows)),
    }
    spec = {
        "params": [
            {"name": "shown", "value": metrics[0], "bind": {"input": "select", "options": metrics, "name": "metric"}},
            {"name": "place", "value": _ALL, "bind": {"input": "select", "options": layers, "name": "layer"}},
        ],
        "transform": [{"filter": "datum.metric === shown && datum.layer === place"}],
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {
                    "y": y,
                    "x": {"field": "ci_low", **x},
                    "x2": {"field": "ci_high"},
                    "color": raw("_colour"),
                },
            },
            {
                "mark": {"type": "point", "size": 60, "opacity": 1, "strokeWidth": 1.5},
                "encoding": {
                    "y": y,
                    "x": {"field": "mean", **x},
                    "color": raw("_colour"),
                    "shape": raw("_shape"),
                    "fill": raw("_fill"),
                    "tooltip": interval_hover(3, word("series", "series")),
                },
            },
        ],
    }
    return [
        Chart(
            "explore",
            "Any metric, in any layer",
            "Mean and 95 % interval of the measurement and of every control.",
            rows,
            spec,
            width=BROAD,
            height=70 + 26 * (1 + len(data.controls)),
            moving=True,
        )
    ]


def _rows(data: RunData, name: str, condition: str) -> list[Row]:
    metric = data.catalogue[name]
    overall = data.overall(name, condition)
    found = [(MEASUREMENT.label, theme.MAIN, ([overall] if overall else []) + data.layers(name, condition))]
    null, variant = theme.nulls(), theme.variants()
    for control in data.controls:
        look, row = next(null if control.is_null else variant), data.control_values.get((name, condition, control.name))
        of_layers = data.control_layers.get((name, condition, control.name), [])
        found.append((control.label, look, ([row] if row else []) + of_layers))
    return [
        {
            "metric": title_of(metric, condition),
            "series": series,
            "layer": _ALL if row["layer"] < 0 else str(row["layer"]),
            **{column: row[column] for column in ("n", "mean", "ci_low", "ci_high")},
            "_colour": look.colour,
            "_shape": look.shape,
            "_fill": look.colour if look.filled else theme.colour("card"),
        }
        for series, look, rows in found
        for row in rows
        if row["n"]
    ]
