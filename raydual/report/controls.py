"""The controls: a figure and a table of what each does to the headline metrics."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raydual.catalogue.entries import CONDITIONS, OF_ZERO_SHOT, Metric
from raydual.report import theme
from raydual.report.data import Row, RunData
from raydual.report.standing import (
    ABOVE,
    BELOW,
    SIGNS,
    UNTESTED,
    Judged,
    Standing,
    is_within_margin,
    standings,
    verdict,
)
from raydual.report.words import digits_of, interval, layers_in_words, number, p_value
from raydual.settings.controls import MEASUREMENT, Control


def control_figure(data: RunData) -> Figure | None:
    """Mean and interval of the measurement and of every control, metric by metric; None without controls."""
    if not data.controls:
        return None
    names = [MEASUREMENT.label, *(control.label for control in data.controls)]
    keys = data.catalogue.in_figures()
    made, axes = theme.grid(len(keys), 3, 0.7 + 0.24 * len(names))
    for index, (axis, (metric, condition)) in enumerate(zip(axes, keys, strict=True)):
        rows = [data.overall(metric, condition)]
        rows += [data.control_values.get((metric, condition, control.name)) for control in data.controls]
        _draw(axis, _title(data, metric, condition), rows, data.controls)
        axis.set_yticks(range(len(names)), names if index % 3 == 0 else [""] * len(names))
        axis.set_ylim(len(names) - 0.5, -0.5)
    return made


def _title(data: RunData, metric: str, condition: str) -> str:
    label = data.catalogue[metric].label
    return label if condition == "icl-ft" else f"{label}, {CONDITIONS[condition]}"


def _draw(axis: Axes, title: str, rows: Sequence[Row | None], controls: Sequence[Control]) -> None:
    axis.set_title(title)
    axis.grid(visible=False, axis="y")
    colours = [theme.MAIN, *(theme.NULL if control.is_null else theme.SECOND for control in controls)]
    for place, (row, colour) in enumerate(zip(rows, colours, strict=True)):
        if row is None or not row["n"]:
            axis.text(0.5, place, "undefined", transform=axis.get_yaxis_transform(), ha="center", va="center", size=8)
            continue
        low, high = (row["mean"] if np.isnan(row[name]) else row[name] for name in ("ci_low", "ci_high"))
        error = [[max(row["mean"] - low, 0)], [max(high - row["mean"], 0)]]
        face = "white" if place and controls[place - 1].is_null else colour
        axis.errorbar(
            row["mean"], place, xerr=error, fmt="D", color=colour, markerfacecolor=face, markersize=5,
            capsize=3, linewidth=1.6,
        )  # fmt: skip
        if place == 0:
            axis.axvspan(low, high, color=theme.MAIN, alpha=0.12, linewidth=0)
            axis.axvline(row["mean"], color=theme.MAIN, linewidth=0.8)


def standing_table(data: RunData) -> dict[str, Any]:
    """Columns, and for each similarity its mean, and sign and n for each column that it was compared with."""
    found = standings(data)
    judged = {name: one for standing in found for name, one in standing.verdicts.items()}
    columns = sorted(judged, key=lambda name: judged[name].is_control)
    rows = [
        {
            "label": s.metric.label,
            "mean": number(s.row["mean"], digits_of(s.metric)),
            "interval": interval(s.row, digits_of(s.metric)),
            "layers": _layers(s),
            "cells": [_judged(s.verdicts.get(name)) for name in columns],
        }
        for s in found
    ]
    return {"columns": columns, "rows": rows, "margin": data.config.measures.margin}


def _layers(standing: Standing) -> str:
    """The layers in which a similarity is above all that it was compared with."""
    if not standing.metric.per_layer:
        return ""
    return layers_in_words(standing.layers) if standing.layers else "none"


def _judged(judged: Judged | None) -> dict[str, str]:
    return {"sign": SIGNS[judged.verdict], "n": f"n = {judged.n}"} if judged else {"sign": "", "n": ""}


@dataclass(frozen=True)
class Cell:
    """The means of a control and of the measurement over the seeds that both have, and how they differ."""

    mean: str
    sign: str
    measured: str
    difference: str
    n: str


def control_table(data: RunData) -> list[dict[str, Any]]:
    """A row for each headline metric: its measured mean, and a cell for every control."""
    return [
        {
            "label": metric.label,
            "condition": CONDITIONS[row["condition"]],
            "mean": number(row["mean"], digits_of(metric)),
            "cells": list(_cells(data, metric, row["condition"])),
        }
        for metric, row in data.headline()
        if row["condition"] not in OF_ZERO_SHOT
    ]


def _cells(data: RunData, metric: Metric, condition: str) -> Iterator[Cell]:
    digits = digits_of(metric)
    for control in data.controls:
        compared = data.against_control(metric.name, condition, control.name)
        if compared is None or not compared["n"]:
            yield Cell("-", "", "", "", "")
            continue
        answer = verdict(compared, control.draws_models)
        yield Cell(
            number(compared["baseline_mean"], digits),
            SIGNS[answer],
            f"measured {number(compared['mean'], digits)}",
            _difference(compared, answer, digits),
            f"n = {compared['n']}",
        )


def _difference(compared: Row, answer: str, digits: int) -> str:
    """The difference of the measurement from a control, or why there is none to test."""
    if answer == UNTESTED:
        return UNTESTED
    difference = f"{number(compared['difference'], digits)} {interval(compared, digits)}"
    if compared["n"] > 1:
        difference += f" {p_value(compared['p_max_t'])}"
    return difference + (", within the margin" if answer in (ABOVE, BELOW) and is_within_margin(compared) else "")
