"""Learning curves: how the numbers, and what stands above its nulls and controls, change with the demonstrations."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from raydual.report import theme
from raydual.report.data import RunData
from raydual.report.panels import Drawn, all_panels, has_negative
from raydual.report.standing import SIGNS, standings

_COLUMNS = 2
Curve = tuple[list[int], list[dict[str, Any]]]


def numbers_of(data: RunData) -> list[int]:
    """After how many demonstrations it was measured, all of them last; empty if that is the only number."""
    shots = data.config.shots
    return [*shots, data.config.demonstrations] if shots else []


def shots_figure(data: RunData) -> Figure | None:
    """Mean over seeds after each number of demonstrations with its 95 % interval; None where there is one number."""
    found = [data.after(k) for k in numbers_of(data)]
    panels = [
        (panel.title, drawn)
        for panel, drawn in all_panels(data.catalogue)
        if any(len(_curve(found, one)[0]) > 1 for one in drawn)
    ]
    if not panels:
        return None
    made, axes = theme.grid(len(panels), _COLUMNS, 2.6)
    for axis, (title, drawn) in zip(axes, panels, strict=True):
        axis.set_title(title)
        if has_negative(drawn):
            axis.axhline(0, color="#9ca3af", linewidth=0.8)
        for one in drawn:
            _draw(axis, one, _curve(found, one))
        axis.set_xscale("log", base=2)
        axis.set_xticks(numbers_of(data), list(map(str, numbers_of(data))))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel("demonstrations")
        low, high = axis.get_ylim()
        axis.set_ylim(low, high + 0.22 * (high - low))
        axis.legend(loc="upper left", ncols=len(drawn), borderaxespad=0)
    return made


def _curve(found: list[RunData], one: Drawn) -> Curve:
    """The numbers of demonstrations after which a metric has a value, and its summary rows there."""
    rows = [(data.shots or data.config.demonstrations, data.overall(*one.key)) for data in found]
    there = [(k, row) for k, row in rows if row and row["n"]]
    return [k for k, _ in there], [row for _, row in there]


def _draw(axis: Axes, one: Drawn, curve: Curve) -> None:
    at, rows = curve
    line: dict[str, Any] = (
        {"linestyle": "--", "linewidth": 1.3} if one.baseline else {"linewidth": 2.0, "marker": "o", "markersize": 4}
    )
    axis.plot(at, [row["mean"] for row in rows], color=one.colour, label=one.name, **line)
    low, high = ([row[name] for row in rows] for name in ("ci_low", "ci_high"))
    axis.fill_between(at, low, high, color=one.colour, alpha=0.25, linewidth=0)


def shots_table(data: RunData) -> dict[str, Any]:
    """A row for each similarity and what it must stand above, with the verdict and n after each number."""
    numbers = numbers_of(data)
    found = {k: {s.metric.label: s.verdicts for s in standings(data.after(k))} for k in numbers}
    names: dict[tuple[str, str], None] = {}
    for k in reversed(numbers):
        names |= {(label, name): None for label, verdicts in found[k].items() for name in verdicts}
    rows = []
    for label, name in names:
        judged = [found[k].get(label, {}).get(name) for k in numbers]
        cells = [{"sign": SIGNS[one.verdict], "n": f"n = {one.n}"} if one else {"sign": "", "n": ""} for one in judged]
        rows.append({"label": label, "name": name, "cells": cells})
    return {"numbers": numbers, "rows": rows}
