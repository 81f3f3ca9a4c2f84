"""Figures of how a number is spread over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raydual.report import theme
from raydual.report.data import RunData

_MOST_POINTS = 300


@dataclass(frozen=True)
class Strip:
    """One column of a panel: a metric and condition, its short name, its colour, and whether it is a baseline."""

    metric: str
    condition: str
    name: str
    colour: str
    baseline: bool = False


@dataclass(frozen=True)
class Panel:
    """Columns that share an axis."""

    title: str
    strips: Sequence[Strip]
    zero_line: bool = True


ACCURACY = Panel(
    "Accuracy",
    (
        Strip("accuracy", "zsl", "zero-shot", theme.ZSL),
        Strip("accuracy", "icl", "in-context", theme.ICL),
        Strip("accuracy", "ft", "fine-tuned", theme.FT),
    ),
    zero_line=False,
)
RECALL = Panel(
    "Recall, %",
    (
        Strip("rec2ftp", "icl-ft", "Rec2FTP", theme.MAIN),
        Strip("reverse_recall", "icl-ft", "reverse", theme.SECOND),
    ),
    zero_line=False,
)
UPDATES = Panel(
    "SimAOU",
    (
        Strip("simaou", "icl-ft", "normalised", theme.MAIN),
        Strip("simaou_norm_matched", "icl-ft", "its null", theme.NULL, True),
        Strip("simaou_raw", "icl-ft", "raw", theme.SECOND),
        Strip("simaou_random", "icl-ft", "random", theme.NULL, True),
    ),
)
MAPS = Panel(
    "SimAM",
    (
        Strip("simam", "icl-ft", "icl, ft", theme.MAIN),
        Strip("simam", "icl-zsl", "icl, zsl", theme.NULL, True),
        Strip("delta_simam", "icl-ft", "ΔSimAM", theme.SECOND),
    ),
)
RANKS = Panel(
    "Kendall's τ",
    (
        Strip("kendall", "icl-ft", "queries", theme.MAIN),
        Strip("kendall_input", "icl-ft", "inputs", theme.SECOND),
        Strip("kendall_random", "icl-ft", "random", theme.NULL, True),
    ),
)
EXACT = Panel(
    "The updates themselves",
    (
        Strip("simdual", "icl-ft", "SimDual", theme.MAIN),
        Strip("simdw", "icl-ft", "SimΔW", theme.SECOND),
    ),
)


def distribution_figure(data: RunData) -> Figure:
    """Every seed's value of each headline metric, with its baselines beside it."""
    made, axes = theme.figure(2, 3, 3.1, widths=[1.1, 1.2, 1.0])
    for axis, panel in zip(axes, (ACCURACY, UPDATES, MAPS, RECALL, RANKS, EXACT), strict=True):
        draw_panel(axis, panel, data)
    return made


def draw_panel(axis: Axes, panel: Panel, data: RunData) -> None:
    """Points for the seeds, a box for their quartiles, and the mean with its interval."""
    axis.set_title(panel.title)
    axis.grid(visible=False, axis="x")
    strips = [s for s in panel.strips if (s.metric, s.condition) in data.seed_values]
    for place, strip in enumerate(strips):
        _draw_strip(axis, place, strip, data)
    axis.set_xticks(range(len(strips)), [s.name for s in strips])
    axis.set_xlim(-0.6, max(len(strips), 1) - 0.4)
    if panel.zero_line:
        axis.axhline(0, color="#9ca3af", linewidth=0.8, zorder=1)
    if not strips:
        axis.text(0.5, 0.5, "no seed was measured", transform=axis.transAxes, ha="center", color=theme.ZSL)


def _draw_strip(axis: Axes, place: int, strip: Strip, data: RunData) -> None:
    values = data.seed_values[strip.metric, strip.condition]
    values = values[~np.isnan(values)]
    row = data.overall(strip.metric, strip.condition)
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
