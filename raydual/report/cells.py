"""The report of a sweep with axes: every cell's numbers, and how they change along each axis."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from raydual.catalogue.entries import CONDITIONS, Catalogue, Key, Metric
from raydual.cells import CellsDirectory
from raydual.report import theme
from raydual.report.data import Row, RunData
from raydual.report.page import environment
from raydual.report.published import published_by_task
from raydual.report.standing import ABOVE, BELOW, SIGNS, UNTELLABLE, verdict
from raydual.report.words import digits_of, interval, number, p_value, with_interval

_COLOURS = ("#3b2f8f", "#d55e00", "#009e73", "#0072b2", "#cc79a7", "#e69f00", "#56b4e9", "#6b7280")

_COLUMNS = 3
_LONGEST_TICK = 14


@dataclass(frozen=True)
class CellsData:
    """The cells of a sweep and what compares them."""

    directory: CellsDirectory

    @cached_property
    def axes(self) -> dict[str, list[str]]:
        """The values of each axis."""
        return self.directory.stored()["axes"]

    @cached_property
    def values(self) -> dict[str, dict[str, str]]:
        """The value of each axis, by cell."""
        return self.directory.stored()["cells"]

    @cached_property
    def cells(self) -> dict[str, RunData]:
        """What each cell measured."""
        return {name: RunData(self.directory.cell(name)) for name in self.values}

    @cached_property
    def catalogue(self) -> Catalogue:
        """Every metric that is measured, which is the same in all cells."""
        return next(iter(self.cells.values())).catalogue

    @cached_property
    def keys(self) -> list[Key]:
        """What is shown."""
        return self.catalogue.in_figures()

    @cached_property
    def comparisons(self) -> list[Row]:
        """The rows of `ALONG_AXES` that are shown."""
        rows = self.directory.comparisons().to_pylist()
        return [row for row in rows if (row["metric"], row["condition"]) in self.keys]

    def others(self, axis: str, cell: str) -> str:
        """The values of all axes but one, in words."""
        return ", ".join(f"{short(name)} {value}" for name, value in self.values[cell].items() if name != axis)


def short(axis: str) -> str:
    """An axis as a person reads it."""
    return axis.removeprefix("finetune.").replace("_", " ")


def write_cells_report(directory: CellsDirectory) -> Path | str:
    """Write `report.html` of a sweep with axes, from what lies in its directory; returns where it is."""
    data = CellsData(directory)
    with theme.style():
        figures = [_axis_section(data, axis) for axis, values in data.axes.items() if len(values) > 1]
    page = (
        environment()
        .get_template("cells.html")
        .render(
            name=directory.stored()["name"],
            findings=list(_findings(data)),
            axes=list(map(short, data.axes)),
            margin=next(iter(data.cells.values())).config.measures.margin,
            columns=[_column(data.catalogue[name], condition) for name, condition in data.keys],
            table=[_cell_row(data, name) for name in data.cells],
            figures=figures,
            published=published_by_task(
                [(", ".join(data.values[name].values()), data.cells[name]) for name in data.cells]
            ),
        )
    )
    return directory.storage.write_page("report.html", page)


def _column(metric: Metric, condition: str) -> dict[str, str]:
    return {"label": metric.label, "condition": "" if condition == "icl-ft" else CONDITIONS[condition]}


def _cell_row(data: CellsData, name: str) -> dict[str, Any]:
    rows = [(data.cells[name].overall(*key), digits_of(data.catalogue[key[0]])) for key in data.keys]
    return {
        "values": list(data.values[name].values()),
        "link": f"cells/{name}/report.html",
        "n": rows[0][0]["n"] if rows[0][0] else 0,
        "cells": [
            {"mean": number(row["mean"] if row else None, digits), "interval": interval(row, digits) if row else ""}
            for row, digits in rows
        ],
    }


def _findings(data: CellsData) -> Iterator[str]:
    """What changes along each axis, as far as it can be told from chance."""
    axes = "; ".join(f"{short(axis)} {', '.join(values)}" for axis, values in data.axes.items())
    yield f"{len(data.cells)} cells: {axes}."
    for axis, values in data.axes.items():
        for row in (row for row in data.comparisons if row["axis"] == axis):
            if verdict(row) not in (ABOVE, BELOW):
                continue
            metric = data.catalogue[row["metric"]]
            digits, others = digits_of(metric), data.others(axis, row["cell"])
            value = data.values[row["cell"]][axis]
            first, found = (data.cells[row[c]].overall(metric.name, row["condition"]) for c in ("reference", "cell"))
            if first and found:
                at = f"at {short(axis)} {values[0]}"
                yield (
                    f"{metric.label}, {CONDITIONS[row['condition']]}: from {with_interval(first, digits)} {at}"
                    f" to {with_interval(found, digits)} at {value} {p_value(row['p_max_t'])}"
                    f"{f', {others}' if others else ''}."
                )
        answers = {verdict(row) for row in data.comparisons if row["axis"] == axis}
        if len(values) > 1 and answers == {UNTELLABLE}:
            yield f"Along {short(axis)} nothing can be told with so few seeds."
        elif len(values) > 1 and not answers & {ABOVE, BELOW}:
            yield f"Along {short(axis)} no change can be told from chance."


def _axis_section(data: CellsData, axis: str) -> dict[str, Any]:
    rows: dict[str, list[Row]] = {}
    for row in data.comparisons:
        if row["axis"] == axis:
            rows.setdefault(row["cell"], []).append(row)
    return {
        "name": short(axis),
        "first": data.axes[axis][0],
        "others": len(data.axes) > 1,
        "svg": Markup(theme.as_svg(axis_figure(data, axis))),  # noqa: S704 - made of numbers and escaped labels
        "rows": [
            {
                "label": ", ".join(filter(None, (f"{short(axis)} {data.values[cell][axis]}", data.others(axis, cell)))),
                "cells": [
                    _difference(data, next(r for r in found if (r["metric"], r["condition"]) == key))
                    for key in data.keys
                ],
            }
            for cell, found in rows.items()
        ],
    }


def _difference(data: CellsData, row: Row) -> dict[str, str]:
    digits = digits_of(data.catalogue[row["metric"]])
    if not row["n"]:
        return {"difference": number(None), "sign": "", "test": "no seed has both"}
    test = f"{interval(row, digits)} {p_value(row['p_max_t'])}, n = {row['n']}" if row["n"] > 1 else "one seed"
    return {"difference": number(row["difference"], digits), "sign": SIGNS[verdict(row)], "test": test}


def axis_figure(data: CellsData, axis: str) -> Figure:
    """Headline metrics along an axis, a line for each combination of the others."""
    made, axes = theme.grid(len(data.keys), _COLUMNS, 2.5)
    lines: dict[str, list[str]] = {}
    for cell in data.cells:
        lines.setdefault(data.others(axis, cell), []).append(cell)
    for place, (panel, (name, condition)) in enumerate(zip(axes, data.keys, strict=True)):
        label = data.catalogue[name].label
        panel.set_title(label if condition == "icl-ft" else f"{label}, {CONDITIONS[condition]}")
        for number_of, (others, cells) in enumerate(lines.items()):
            rows = {data.values[c][axis]: data.cells[c].overall(name, condition) for c in cells}
            aside = 0.0 if _is_numeric(data.axes[axis]) else 0.5 * ((number_of + 0.5) / len(lines) - 0.5)
            _draw(panel, data.axes[axis], rows, _COLOURS[number_of % len(_COLOURS)], others, aside)
        _scale(panel, data.axes[axis])
        if place == 0 and len(lines) > 1:
            made.legend(*panel.get_legend_handles_labels(), loc="outside upper left", ncols=2)
        if place >= len(axes) - _COLUMNS:
            panel.set_xlabel(short(axis))
    return made


def _places(values: Sequence[str]) -> list[float]:
    """Where the values of an axis are drawn: numbers at themselves, others one after the other."""
    try:
        return [float(value) for value in values]
    except ValueError:
        return list(map(float, range(len(values))))


def _draw(
    panel: Axes, values: Sequence[str], rows: dict[str, Row | None], colour: str, label: str, aside: float
) -> None:
    """A line, or `aside` of each value's place points, that stand beside those of other lines."""
    found = [(at + aside, rows.get(value)) for at, value in zip(_places(values), values, strict=True)]
    drawn = sorted(((at, row) for at, row in found if row and row["n"]), key=lambda point: point[0])
    if not drawn:
        return
    at, means = [x for x, _ in drawn], [row["mean"] for _, row in drawn]
    low = [max(row["mean"] - row["ci_low"], 0) if row["n"] > 1 else 0 for _, row in drawn]
    high = [max(row["ci_high"] - row["mean"], 0) if row["n"] > 1 else 0 for _, row in drawn]
    style = "-" if _is_numeric(values) else ""
    panel.errorbar(at, means, yerr=[low, high], fmt=f"o{style}", color=colour, markersize=4, capsize=3, label=label)


def _is_numeric(values: Sequence[str]) -> bool:
    return _places(values) != list(map(float, range(len(values)))) or values[0].isdecimal()


def _brief(value: str) -> str:
    """A value for a tick: the last part of a path, its end if that is long."""
    last = PurePosixPath(value).name or value
    return last if len(last) <= _LONGEST_TICK else f"…{last[1 - _LONGEST_TICK :]}"


def _scale(panel: Axes, values: Sequence[str]) -> None:
    places = _places(values)
    if _is_numeric(values) and min(places) > 0 and max(places) >= 10 * min(places):
        panel.set_xscale("log")
        panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(places, [_brief(value) for value in values])
    if not _is_numeric(values):
        panel.set_xlim(-0.5, len(values) - 0.5)
