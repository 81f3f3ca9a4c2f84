"""Figures of how headline numbers change along an axis, with their nulls."""

import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from raydual.catalogue.entries import Metric
from raydual.report import theme
from raydual.report.charts import Chart, Row, interval_hover, limits, looks, word
from raydual.report.compared import Compared, short
from raydual.report.controls import title_of
from raydual.report.data import RunData
from raydual.report.words import digits_of

_LONGEST_TICK = 14


def along_charts(data: Compared, axis: str) -> list[Chart]:
    """Headline metrics along an axis, a line for each combination of the others; a single line has its nulls beside."""
    return [_chart(data, axis, data.catalogue[name], condition) for name, condition in data.keys]


def _chart(data: Compared, axis: str, metric: Metric, condition: str) -> Chart:
    lines: dict[str, list[str]] = {}
    for place in data.runs:
        lines.setdefault(data.others(axis, place), []).append(place)
    comparisons, null_looks = theme.comparisons(), theme.nulls()
    series: dict[str, theme.Look] = {name or "measured": next(comparisons) for name in lines}
    rows = []
    for place_of, (others, places) in enumerate(lines.items()):
        aside = 0.0 if is_numeric(data.axes[axis]) else 0.5 * ((place_of + 0.5) / len(lines) - 0.5)
        for place in places:
            found = data.runs[place].overall(metric.name, condition)
            rows += _row(data, axis, place, others or "measured", found, aside)
            if len(lines) == 1 and metric.similarity and condition == "icl-ft":
                for name, null in _nulls(data.runs[place], metric):
                    series.setdefault(name, next(null_looks))
                    rows += _row(data, axis, place, name, null, 0.0)
    series = {name: look for name, look in series.items() if any(row["series"] == name for row in rows)}
    digits = digits_of(metric)
    return Chart(
        f"along-{axis.replace('.', '-')}-{metric.name}" + ("" if condition == "icl-ft" else f"-{condition}"),
        title_of(metric, condition),
        f"Mean over seeds along {short(axis)}: "
        + "; ".join(f"{row['series']} at {row[short(axis)]}: {row['mean']:.{digits}f}" for row in rows)
        + ".",
        rows,
        {"layer": _marks(data, axis, metric, rows, series)},
        (metric.name,),
        height=240 + 17 * max(0, (len(series) - 1) // 2),
    )


def _nulls(run: RunData, metric: Metric) -> Iterator[tuple[str, Row | None]]:
    for name, condition in metric.baselines:
        yield run.catalogue[name].short or run.catalogue[name].label, run.overall(name, condition)
    for control in run.controls:
        if control.is_null:
            yield control.label, run.control_values.get((metric.name, "icl-ft", control.name))


def _row(data: Compared, axis: str, place: str, series: str, row: Row | None, aside: float) -> list[Row]:
    if row is None or not row["n"]:
        return []
    value = data.values[place][axis]
    at = places_of(data.axes[axis])[data.axes[axis].index(value)]
    numbers = {name: row[name] for name in ("n", "mean", "ci_low", "ci_high")}
    return [{"series": series, short(axis): value, **numbers, "_at": at + aside}]


def _marks(
    data: Compared, axis: str, metric: Metric, rows: list[Row], series: dict[str, theme.Look]
) -> list[dict[str, Any]]:
    values, places = data.axes[axis], places_of(data.axes[axis])
    numeric = is_numeric(values)
    is_log = numeric and min(places) > 0 and max(places) >= 10 * min(places)
    around = [min(places) / 1.2, max(places) * 1.2] if is_log else [min(places) - 0.5, max(places) + 0.5]
    if numeric and not is_log:
        air = 0.06 * (max(places) - min(places)) or 1.0
        around = [min(places) - air, max(places) + air]
    x: dict[str, Any] = {
        "field": "_at",
        "type": "quantitative",
        "title": short(axis),
        "scale": {"type": "log" if is_log else "linear", "domain": around, "nice": False},
        "axis": {"values": places, "grid": False},
    }
    if numeric:
        x["axis"] |= {"labelExpr": "format(datum.value, '~g')"}
    else:
        x["axis"] |= {"labelExpr": f"{json.dumps([_brief(value) for value in values])}[datum.value]"}
    y: dict[str, Any] = {
        "type": "quantitative",
        "title": None,
        "scale": {
            "domain": limits([row[n] for row in rows for n in ("ci_low", "mean", "ci_high")], metric),
            "nice": False,
            "zero": False,
        },
    }
    encoded = looks(list(series), list(series.values()))
    if len(series) == 1:
        encoded["color"]["legend"] = None
        encoded["shape"]["legend"] = encoded["strokeDash"]["legend"] = None
    line = {
        "mark": {"type": "line", "strokeWidth": 1.6},
        "encoding": {
            "x": x,
            "y": {"field": "mean", **y},
            "color": encoded["color"],
            "strokeDash": encoded["strokeDash"],
        },
    }
    return [
        *([line] if numeric else []),
        {
            "mark": {"type": "rule", "strokeWidth": 1.8},
            "encoding": {"x": x, "y": {"field": "ci_low", **y}, "y2": {"field": "ci_high"}, "color": encoded["color"]},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 48, "opacity": 1},
            "encoding": {
                "x": x,
                "y": {"field": "mean", **y},
                "color": encoded["color"],
                "shape": encoded["shape"],
                "tooltip": interval_hover(
                    digits_of(metric), word("series", "series"), word(short(axis).replace(".", "\\."), short(axis))
                ),
            },
        },
    ]


def places_of(values: Sequence[str]) -> list[float]:
    """Where the values of an axis are drawn: numbers at themselves, others one after the other."""
    try:
        return [float(value) for value in values]
    except ValueError:
        return list(map(float, range(len(values))))


def is_numeric(values: Sequence[str]) -> bool:
    """Whether all values of an axis are numbers."""
    return places_of(values) != list(map(float, range(len(values)))) or values[0].isdecimal()


def _brief(value: str) -> str:
    """A value for a tick: the last part of a path, its end if that is long."""
    last = PurePosixPath(value).name or value
    return last if len(last) <= _LONGEST_TICK else f"…{last[1 - _LONGEST_TICK :]}"
