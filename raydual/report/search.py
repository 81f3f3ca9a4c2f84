"""Figures of what the search tried: the seeds ranked, and the fine-tuning settings by learning rate."""

import math
from typing import Any

from raydual.report import theme
from raydual.report.charts import BROAD, Chart, Row, limits, looks, number, raw, word
from raydual.report.data import RunData
from raydual.statistics.proportions import exact

_MOST_SEEDS, _MOST_TICKS = 200, 7
_KINDS = {
    "kept": theme.OF_CONDITION["icl"],
    "left out": theme.Look(theme.colour("null"), "square", filled=False),
    "stopped early": theme.Look(theme.colour("third"), "triangle-down", filled=False),
}
_SETTINGS = (
    theme.OF_CONDITION["ft"],
    theme.MAIN,
    theme.OF_CONDITION["icl"],
    theme.Look(theme.colour("second"), "square", (3, 2)),
    theme.Look(theme.colour("third"), "cross", (2, 2)),
)


def search_charts(data: RunData) -> list[Chart]:
    """The candidate seeds ranked by in-context accuracy, and the fine-tuning settings; none if nothing was searched."""
    seeds, settings = data.run.seed_search(), data.run.finetune_search()
    charts = []
    if seeds is not None and len(seeds):
        charts.append(_seeds(seeds.to_pylist()))
    if settings is not None and len(settings):
        charts.append(_settings(settings.to_pylist()))
    return charts


def _kind(row: Row) -> str:
    if row["kept"]:
        return "kept"
    return "left out" if row["stopped_at"] is None else "stopped early"


def _seeds(found: list[Row]) -> Chart:
    scored = [row for row in found if not math.isnan(row["accuracy"])]
    ranked = sorted(scored, key=lambda row: (row["kept"], row["examples"], row["accuracy"]), reverse=True)
    rows = []
    for rank, row in enumerate(ranked, start=1):
        low, high = exact(row["accuracy"] * row["examples"], row["examples"])
        look = _KINDS[_kind(row)]
        fill = look.colour if look.filled else theme.colour("card")
        rows.append(
            {
                "rank": rank,
                "seed": row["seed"],
                "series": _kind(row),
                "examples": row["examples"],
                "accuracy": row["accuracy"],
                "ci_low": low,
                "ci_high": high,
                "_fill": fill,
            }
        )
    rows = rows[:: -(-len(rows) // _MOST_SEEDS) or 1]
    names = [name for name in _KINDS if any(row["series"] == name for row in rows)]
    encoded = looks(names, [_KINDS[name] for name in names])
    x = {
        "field": "rank",
        "type": "quantitative",
        "title": "rank",
        "axis": {"format": "d", "grid": False, "tickMinStep": 1},
        "scale": {"domain": [0, len(ranked) + 1], "nice": False},
    }
    y: dict[str, Any] = {
        "type": "quantitative",
        "title": "in-context accuracy",
        "scale": {
            "domain": limits([row[n] for row in rows for n in ("ci_low", "ci_high")]),
            "nice": False,
            "zero": False,
        },
    }
    y["scale"]["domain"] = [max(0, y["scale"]["domain"][0]), min(1, y["scale"]["domain"][1])]
    layers = [
        {
            "mark": {"type": "rule", "strokeWidth": 1.2, "opacity": 0.6},
            "encoding": {"x": x, "y": {"field": "ci_low", **y}, "y2": {"field": "ci_high"}, "color": encoded["color"]},
        },
        {
            "mark": {"type": "point", "size": 34, "opacity": 1, "strokeWidth": 1.5},
            "encoding": {
                "x": x,
                "y": {"field": "accuracy", **y},
                "color": encoded["color"],
                "shape": encoded["shape"],
                "fill": raw("_fill"),
                "tooltip": [
                    word("seed", "seed"),
                    word("rank", "rank"),
                    word("series", ""),
                    number("accuracy", "accuracy"),
                    number("ci_low", "95 % from"),
                    number("ci_high", "95 % to"),
                    word("examples", "examples"),
                ],
            },
        },
    ]
    counts = ", ".join(f"{sum(row['series'] == name for row in rows)} {name}" for name in names)
    return Chart(
        "search-seeds",
        "Candidate seeds, ranked",
        f"In-context accuracy on the selection examples: {counts}.",
        rows,
        {"layer": layers},
        width=BROAD,
        height=250,
    )


def _settings(found: list[Row]) -> Chart:
    def named(row: Row) -> str:
        return f"{row['optimizer']}, {row['epochs']} epoch{'s' if row['epochs'] > 1 else ''}"

    names = sorted({named(row) for row in found})
    columns = ("optimizer", "epochs", "learning_rate", "accuracy", "loss", "diverged", "chosen")
    rows = [{"series": named(row), **{name: row[name] for name in columns}} for row in found]
    scored = [row["accuracy"] for row in rows if not math.isnan(row["accuracy"])]
    rates = sorted({row["learning_rate"] for row in rows})
    domain = limits(scored)
    x: dict[str, Any] = {
        "field": "learning_rate",
        "type": "quantitative",
        "title": "learning rate",
        "scale": {"type": "log", "domain": [rates[0] / 1.3, rates[-1] * 1.3], "nice": False},
        "axis": {"values": rates[:: -(-len(rates) // _MOST_TICKS)], "format": "~g", "grid": False},
    }
    y: dict[str, Any] = {
        "field": "accuracy",
        "type": "quantitative",
        "title": "fine-tuned accuracy",
        "scale": {"domain": [max(0, domain[0]), min(1, domain[1])], "nice": False, "zero": False},
    }
    drawn = [_SETTINGS[place % len(_SETTINGS)] for place in range(len(names))]
    encoded = looks(names, drawn)
    layers = [
        {
            "mark": {"type": "line", "strokeWidth": 1.6},
            "encoding": {"x": x, "y": y, "color": encoded["color"], "strokeDash": encoded["strokeDash"]},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 45, "opacity": 1},
            "encoding": {
                "x": x,
                "y": y,
                "color": encoded["color"],
                "shape": encoded["shape"],
                "tooltip": [
                    word("series", "setting"),
                    word("learning_rate", "learning rate"),
                    number("accuracy", "accuracy"),
                    number("loss", "loss"),
                    word("diverged", "diverged"),
                ],
            },
        },
        {
            "transform": [{"filter": "datum.chosen"}],
            "mark": {
                "type": "point",
                "shape": "circle",
                "size": 190,
                "strokeWidth": 1.8,
                "color": theme.colour("ink"),
                "filled": False,
                "opacity": 1,
            },
            "encoding": {"x": x, "y": y},
        },
    ]
    best = next((row for row in rows if row["chosen"]), None)
    chosen = f" Chosen (ringed): {best['series']}, learning rate {best['learning_rate']:g}." if best else ""
    return Chart(
        "search-settings",
        "Fine-tuning settings",
        f"Fine-tuned accuracy on the selection examples by learning rate.{chosen}",
        rows,
        {"layer": layers},
        width=BROAD,
        height=250,
    )
