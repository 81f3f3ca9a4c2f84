"""Learning curves: how the numbers, and what stands above its nulls and controls, change with the demonstrations."""

from collections.abc import Sequence
from typing import Any

from raydual.report.charts import Chart, Row, interval_hover, limits, looks, only, word
from raydual.report.data import RunData
from raydual.report.panels import Drawn, all_panels, has_negative
from raydual.report.standing import SIGNS, standings
from raydual.report.words import digits_of


def numbers_of(data: RunData) -> list[int]:
    """After how many demonstrations it was measured, all of them last; empty if that is the only number."""
    shots = data.config.shots
    return [*shots, data.config.demonstrations] if shots else []


def shots_charts(data: RunData) -> list[Chart]:
    """Mean over seeds after each number of demonstrations, a chart for each panel; none where there is one number."""
    found = [data.after(k) for k in numbers_of(data)]
    charts = []
    for panel, drawn in all_panels(data.catalogue):
        rows = [row for one in drawn for row in _rows(found, one)]
        if any(sum(row["series"] == one.name for row in rows) > 1 for one in drawn):
            there = [one for one in drawn if any(row["series"] == one.name for row in rows)]
            charts.append(_chart(panel.title, there, rows, numbers_of(data)))
    return charts


def _chart(title: str, drawn: Sequence[Drawn], rows: list[Row], numbers: list[int]) -> Chart:
    metric = drawn[0].metric
    inner = [row[name] for row in rows for name in ("ci_low", "mean", "ci_high")]
    x: dict[str, Any] = {
        "field": "demonstrations",
        "type": "quantitative",
        "title": "demonstrations",
        "scale": {"type": "log", "base": 2, "domain": [numbers[0] / 1.15, numbers[-1] * 1.15], "nice": False},
        "axis": {"values": numbers, "format": "d", "grid": False},
    }
    y: dict[str, Any] = {
        "type": "quantitative",
        "title": None,
        "scale": {"domain": limits(inner, metric, zero=has_negative(drawn)), "nice": False, "zero": False},
    }
    encoded = looks([one.name for one in drawn], [one.look for one in drawn])
    colour, mean = {"color": encoded["color"]}, {"field": "mean", **y}
    layers = [
        {
            "transform": only(_baseline=False),
            "mark": {"type": "area", "opacity": 0.25},
            "encoding": {"x": x, "y": {"field": "ci_low", **y}, "y2": {"field": "ci_high"}, **colour},
        },
        {
            "mark": {"type": "line", "strokeWidth": 1.8},
            "encoding": {"x": x, "y": mean, **colour, "strokeDash": encoded["strokeDash"]},
        },
        {
            "mark": {"type": "point", "size": 36, "filled": True, "opacity": 1},
            "encoding": {
                "x": x,
                "y": mean,
                **colour,
                "shape": encoded["shape"],
                "tooltip": interval_hover(
                    digits_of(metric), word("series", "series"), word("demonstrations", "demonstrations")
                ),
            },
        },
    ]
    digits = digits_of(metric)
    words = (f"{row['series']} after {row['demonstrations']}: {row['mean']:.{digits}f}" for row in rows)
    return Chart(
        f"shots-{metric.panel_of(drawn[0].condition)}",
        title,
        f"Mean over seeds by number of demonstrations: {'; '.join(words)}.",
        rows,
        {"layer": layers},
        tuple(dict.fromkeys(one.metric.name for one in drawn)),
        height=240 + 17 * max(0, (len(drawn) - 1) // 2),
    )


def _rows(found: list[RunData], one: Drawn) -> list[Row]:
    """The summary of a metric after each number of demonstrations at which it has a value."""
    rows = [(data.shots or data.config.demonstrations, data.overall(*one.key)) for data in found]
    about = {"metric": one.metric.name, "condition": one.condition, "series": one.name, "_baseline": one.baseline}
    return [
        {**about, "demonstrations": k, **{name: row[name] for name in ("n", "mean", "ci_low", "ci_high")}}
        for k, row in rows
        if row and row["n"]
    ]


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
        cells = [
            {"sign": SIGNS[one.verdict], "verdict": one.verdict, "n": f"n = {one.n}"}
            if one
            else {"sign": "", "verdict": "", "n": ""}
            for one in judged
        ]
        rows.append({"label": label, "name": name, "cells": cells})
    return {"numbers": numbers, "rows": rows}
