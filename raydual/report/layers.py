"""Figures of how a number runs through the layers."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raydual.report import theme
from raydual.report.data import RunData
from raydual.report.panels import Drawn, panels_through_layers

_MOST_LETTERS = 60
"""Of the names in a line of a legend."""


def layer_figure(data: RunData) -> Figure:
    """Mean over seeds in each layer, its 95 % interval, the quartiles of the seeds, and the baselines."""
    panels = list(panels_through_layers(data.catalogue))
    made, axes = theme.grid(len(panels), 2, 2.6)
    for axis, (title, curves) in zip(axes, panels, strict=True):
        axis.set_title(title)
        axis.axhline(0, color="#9ca3af", linewidth=0.8)
        for curve in curves:
            _draw(axis, curve, data)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("layer")
        if axis.get_legend_handles_labels()[0]:
            low, high = axis.get_ylim()
            columns = len(curves) if sum(len(curve.name) for curve in curves) < _MOST_LETTERS else 2
            lines = -(-len(curves) // columns)
            axis.set_ylim(low, high + 0.22 * lines * (high - low))
            axis.legend(loc="upper left", ncols=columns, borderaxespad=0)
    return made


def _draw(axis: Axes, curve: Drawn, data: RunData) -> None:
    rows = [row for row in data.layers(curve.metric.name, curve.condition) if row["n"]]
    if not rows:
        return
    at = [row["layer"] for row in rows]

    def series(name: str) -> np.ndarray:
        return np.asarray([row[name] for row in rows])

    line: dict[str, Any] = (
        {"linestyle": "--", "linewidth": 1.3} if curve.baseline else {"linewidth": 2.0, "marker": "o"}
    )
    axis.plot(at, series("mean"), color=curve.colour, label=curve.name, markersize=4, **line)
    axis.fill_between(at, series("q25"), series("q75"), color=curve.colour, alpha=0.12, linewidth=0)
    axis.fill_between(at, series("ci_low"), series("ci_high"), color=curve.colour, alpha=0.3, linewidth=0)
