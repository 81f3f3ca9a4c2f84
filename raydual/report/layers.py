"""Figures of how a number runs through the layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raydual.report import theme
from raydual.report.data import RunData


@dataclass(frozen=True)
class Curve:
    """A metric and condition through the layers."""

    metric: str
    condition: str
    name: str
    colour: str
    baseline: bool = False


PANELS: Sequence[tuple[str, Sequence[Curve]]] = (
    (
        "SimAOU, normalised",
        (
            Curve("simaou", "icl-ft", "in-context, fine-tuned", theme.MAIN),
            Curve("simaou_norm_matched", "icl-ft", "norm-matched null", "#6b7280", True),
            Curve("simaou_random", "icl-ft", "random", theme.NULL, True),
        ),
    ),
    ("SimAOU, raw", (Curve("simaou_raw", "icl-ft", "in-context, fine-tuned", theme.SECOND),)),
    (
        "SimAM",
        (
            Curve("simam", "icl-ft", "in-context, fine-tuned", theme.MAIN),
            Curve("simam", "icl-zsl", "in-context, zero-shot", "#6b7280", True),
        ),
    ),
    ("ΔSimAM", (Curve("delta_simam", "icl-ft", "in-context, fine-tuned", theme.SECOND),)),
    (
        "Kendall's τ",
        (
            Curve("kendall", "icl-ft", "queries", theme.MAIN),
            Curve("kendall_input", "icl-ft", "inputs", theme.SECOND),
            Curve("kendall_random", "icl-ft", "random", theme.NULL, True),
        ),
    ),
    (
        "The updates themselves",
        (
            Curve("simdual", "icl-ft", "SimDual", theme.MAIN),
            Curve("simdw", "icl-ft", "SimΔW", theme.SECOND),
        ),
    ),
    (
        "Size of the updates, relative to the attention output",
        (
            Curve("update_norm", "icl", "in-context", theme.ICL),
            Curve("update_norm", "ft", "fine-tuned", theme.FT),
        ),
    ),
    ("λ, attention mass on the demonstrations", (Curve("lambda", "icl", "in-context", theme.ICL),)),
)


def layer_figure(data: RunData) -> Figure:
    """Mean over seeds in each layer, its 95 % interval, the quartiles of the seeds, and the baselines."""
    made, axes = theme.figure(len(PANELS) // 2, 2, 2.6)
    for axis, (title, curves) in zip(axes, PANELS, strict=True):
        axis.set_title(title)
        axis.axhline(0, color="#9ca3af", linewidth=0.8)
        for curve in curves:
            _draw(axis, curve, data)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("layer")
        if axis.get_legend_handles_labels()[0]:
            low, high = axis.get_ylim()
            axis.set_ylim(low, high + 0.22 * (high - low))
            axis.legend(loc="upper left", ncols=len(curves), borderaxespad=0)
    return made


def _draw(axis: Axes, curve: Curve, data: RunData) -> None:
    rows = [row for row in data.layers(curve.metric, curve.condition) if row["n"]]
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
