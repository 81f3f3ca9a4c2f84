"""Figures of how a number is spread over seeds."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raydual.report import theme
from raydual.report.data import RunData
from raydual.report.panels import Drawn, has_negative, panels_over_seeds

_MOST_POINTS = 300


def distribution_figure(data: RunData) -> Figure:
    """Every seed's value of each headline metric, with its baselines beside it."""
    panels = panels_over_seeds(data.catalogue)
    made, axes = theme.grid(len(panels), 3, 3.1, widths=[1.1, 1.2, 1.0])
    for axis, (panel, drawn) in zip(axes, panels, strict=True):
        draw_panel(axis, panel.title, drawn, data)
    return made


def draw_panel(axis: Axes, title: str, drawn: Sequence[Drawn], data: RunData) -> None:
    """Points for the seeds, a box for their quartiles, and the mean with its interval."""
    axis.set_title(title)
    axis.grid(visible=False, axis="x")
    strips = [one for one in drawn if (one.metric.name, one.condition) in data.seed_values]
    for place, strip in enumerate(strips):
        _draw_strip(axis, place, strip, data)
    axis.set_xticks(range(len(strips)), [_broken(one.name) for one in strips])
    axis.set_xlim(-0.6, max(len(strips), 1) - 0.4)
    if has_negative(drawn):
        axis.axhline(0, color="#9ca3af", linewidth=0.8, zorder=1)
    if not strips:
        axis.text(0.5, 0.5, "no seed was measured", transform=axis.transAxes, ha="center", color=theme.ZSL)


def _broken(name: str) -> str:
    """A long name on two lines: a metric, and of what."""
    return name.replace(", ", "\n", 1) if name.count(", ") > 1 else name


def _draw_strip(axis: Axes, place: int, strip: Drawn, data: RunData) -> None:
    values = data.seed_values[strip.metric.name, strip.condition]
    values = values[~np.isnan(values)]
    row = data.overall(strip.metric.name, strip.condition)
    if not len(values) or row is None:
        axis.text(place, 0.5, "undefined", transform=axis.get_xaxis_transform(), ha="center", color=theme.ZSL)
        return
    shown = values[:: -(-len(values) // _MOST_POINTS)]
    axis.scatter(place - 0.18 + _spread(shown), shown, s=11, color=strip.colour, alpha=0.45, linewidths=0, zorder=2)
    axis.boxplot(
        [values], positions=[place + 0.14], widths=0.14, showfliers=False, manage_ticks=False,
        boxprops={"color": strip.colour}, whiskerprops={"color": strip.colour},
        capprops={"color": strip.colour}, medianprops={"color": strip.colour},
    )  # fmt: skip
    low, high = (row["mean"] if np.isnan(row[name]) else row[name] for name in ("ci_low", "ci_high"))
    axis.errorbar(
        place + 0.34, row["mean"], yerr=[[max(row["mean"] - low, 0)], [max(high - row["mean"], 0)]],
        fmt="D", markersize=5, color=strip.colour, markerfacecolor="white" if strip.baseline else strip.colour,
        capsize=3, linewidth=1.6, zorder=3,
    )  # fmt: skip


def _spread(values: np.ndarray) -> np.ndarray:
    """Sideways offsets that keep close values apart, the same each time."""
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    golden = (order * 0.618034) % 1.0
    return (golden - 0.5) * 0.3
