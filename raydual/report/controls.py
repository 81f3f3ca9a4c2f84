"""The controls: a figure and a table of what each does to the headline metrics."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from raydual.catalogue.entries import CONDITIONS, OF_ZERO_SHOT, Metric
from raydual.report import theme
from raydual.report.charts import Chart, interval_hover, limits, only, raw, series_axis, word
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
from raydual.report.words import DASH, digits_of, interval, layers_in_words, number, p_value, with_interval
from raydual.settings.controls import MEASUREMENT


def control_charts(data: RunData) -> list[Chart]:
    """Mean and interval of the measurement and of every control, a chart for each metric; none without controls."""
    keys = data.catalogue.in_figures() if data.controls else []
    return [_chart(data, data.catalogue[metric], condition) for metric, condition in keys]


def title_of(metric: Metric, condition: str) -> str:
    """What a panel of one metric under one condition is called."""
    return metric.label if condition == "icl-ft" else f"{metric.label}, {CONDITIONS[condition]}"


def _chart(data: RunData, metric: Metric, condition: str) -> Chart:
    null, variant = theme.nulls(), theme.variants()
    looks = {control.label: next(null if control.is_null else variant) for control in data.controls}
    found = [(MEASUREMENT.label, theme.MAIN, data.overall(metric.name, condition))] + [
        (control.label, looks[control.label], data.control_values.get((metric.name, condition, control.name)))
        for control in data.controls
    ]
    rows, digits = [_row(*one) for one in found], digits_of(metric)
    shown = [row[name] for row in rows if "mean" in row for name in ("ci_low", "mean", "ci_high")]
    x: dict[str, Any] = {
        "type": "quantitative",
        "title": None,
        "scale": {"domain": limits(shown, metric), "nice": False, "zero": False},
        "axis": {"tickCount": 4},
    }
    y = {
        "field": "series",
        "type": "nominal",
        "sort": None,
        "title": None,
        "axis": {
            **series_axis(name for name, *_ in found),
            "labelColor": theme.colour("ink"),
            "domain": False,
        },
    }
    colour: dict[str, Any] = {"color": raw("_colour")}
    measured = {"transform": only(series=MEASUREMENT.label)}
    layers = [
        {
            **measured,
            "mark": {"type": "rect", "color": theme.colour("main"), "opacity": 0.13},
            "encoding": {"x": {"field": "ci_low", **x}, "x2": {"field": "ci_high"}},
        },
        {
            **measured,
            "mark": {"type": "rule", "color": theme.colour("main")},
            "encoding": {"x": {"field": "mean", **x}},
        },
        {
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": {"y": y, "x": {"field": "ci_low", **x}, "x2": {"field": "ci_high"}, **colour},
        },
        {
            "mark": {"type": "point", "size": 55, "opacity": 1, "strokeWidth": 1.5},
            "encoding": {
                "y": y,
                "x": {"field": "mean", **x},
                **colour,
                "fill": raw("_fill"),
                "shape": raw("_shape"),
                "tooltip": interval_hover(digits, word("series", "series")),
            },
        },
        {
            "transform": [{"filter": "!isValid(datum.mean)"}],
            "mark": {"type": "text", "align": "left", "color": theme.colour("muted"), "text": "undefined", "x": 4},
            "encoding": {"y": y},
        },
    ]
    words = (f"{name} {with_interval(row, digits) if row and row['n'] else 'undefined'}" for name, _, row in found)
    return Chart(
        f"controls-{metric.name}" + ("" if condition == "icl-ft" else f"-{condition}"),
        title_of(metric, condition),
        f"Mean and 95 % interval: {'; '.join(words)}.",
        rows,
        {"layer": layers},
        (metric.name,),
        height=44 + 28 * len(found),
    )


def _row(series: str, look: theme.Look, row: Row | None) -> Row:
    numbers = {name: row[name] for name in ("n", "mean", "ci_low", "ci_high")} if row and row["n"] else {"n": 0}
    fill = look.colour if look.filled else theme.colour("card")
    return {"series": series, **numbers, "_colour": look.colour, "_shape": look.shape, "_fill": fill}


def standing_table(data: RunData) -> dict[str, Any]:
    """Columns, and for each similarity its mean, and sign and n for each column that it was compared with."""
    found = standings(data)
    all_judged = {name: one for standing in found for name, one in standing.verdicts.items()}
    columns = sorted(all_judged, key=lambda name: all_judged[name].is_control)
    rows = [
        {
            "name": s.metric.name,
            "label": s.metric.label,
            "verdict": _in_all(s),
            "mean": number(s.row["mean"], digits_of(s.metric)),
            "interval": interval(s.row, digits_of(s.metric)),
            "layers": _layers(s),
            "cells": [_judged(s.verdicts.get(name)) for name in columns],
        }
        for s in found
    ]
    said = [judged.verdict for standing in found for judged in standing.verdicts.values()]
    return {"columns": columns, "rows": rows, "margin": data.config.measures.margin, "words": words_of(said)}


def words_of(verdicts: Iterable[str]) -> list[tuple[str, str]]:
    """The verdicts that are there, with their signs, in the order of `SIGNS`."""
    there = set(verdicts)
    return [(verdict, sign) for verdict, sign in SIGNS.items() if verdict in there]


def _in_all(standing: Standing) -> str:
    if standing.above_all:
        return "above all"
    return "not above all" if standing.is_refuted else "not shown"


def _layers(standing: Standing) -> str:
    """The layers in which a similarity is above all that it was compared with."""
    if not standing.metric.per_layer:
        return ""
    return layers_in_words(standing.layers) if standing.layers else "none"


def _judged(judged: Judged | None) -> dict[str, str]:
    if judged is None:
        return {"sign": "", "verdict": "", "n": ""}
    return {"sign": SIGNS[judged.verdict], "verdict": judged.verdict, "n": f"n = {judged.n}"}


@dataclass(frozen=True)
class Cell:
    """The means of a control and of the measurement over the n seeds that both have, and how they differ."""

    mean: str
    sign: str
    verdict: str
    measured: str
    difference: str
    n: str


def control_table(data: RunData) -> list[dict[str, Any]]:
    """A row for each headline metric: its measured mean, and a cell for every control."""
    return [
        {
            "name": metric.name,
            "label": metric.label,
            "condition": CONDITIONS[row["condition"]],
            "mean": with_interval(row, digits_of(metric)),
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
            yield Cell(DASH, "", "", "", "", "")
            continue
        answer = verdict(compared, control.draws_models)
        yield Cell(
            number(compared["baseline_mean"], digits),
            SIGNS[answer],
            answer,
            number(compared["mean"], digits),
            _difference(compared, answer, digits),
            str(compared["n"]),
        )


def _difference(compared: Row, answer: str, digits: int) -> str:
    """The difference of the measurement from a control, or why there is none to test."""
    if answer == UNTESTED:
        return DASH
    difference = f"{number(compared['difference'], digits)} {interval(compared, digits)}"
    if compared["n"] > 1:
        difference += f" {p_value(compared['p_max_t'])}"
    return difference + (", within the margin" if answer in (ABOVE, BELOW) and is_within_margin(compared) else "")
