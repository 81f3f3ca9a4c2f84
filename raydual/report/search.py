"""The figure of what the search tried."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from raydual.report import theme
from raydual.report.data import RunData

_MOST_TICKS = 8


def search_figure(data: RunData) -> Figure | None:
    """Accuracy of the candidate seeds, and of the fine-tuning settings; None if nothing was searched."""
    seeds, settings = data.run.seed_search(), data.run.finetune_search()
    drawn = [(draw, table.to_pylist()) for draw, table in ((_seeds, seeds), (_settings, settings)) if table]
    if not drawn:
        return None
    made, axes = theme.figure(1, len(drawn), 3.0)
    for axis, (draw, rows) in zip(axes, drawn, strict=True):
        draw(axis, rows)
    return made


def _seeds(axis: Axes, rows: list[dict]) -> None:
    axis.set_title("Candidate seeds, selection set")
    kinds = (
        ("kept", theme.ICL, [r for r in rows if r["kept"]]),
        ("left out", "#9aa0a6", [r for r in rows if not r["kept"] and r["stopped_at"] is None]),
        ("stopped early", "#cc79a7", [r for r in rows if not r["kept"] and r["stopped_at"] is not None]),
    )
    for name, colour, chosen in kinds:
        found = [r for r in chosen if not np.isnan(r["accuracy"])]
        if found:
            axis.scatter(
                [r["seed"] for r in found],
                [r["accuracy"] for r in found],
                s=22,
                color=colour,
                label=name,
                linewidths=0,
            )
    axis.set_xlabel("seed")
    axis.set_ylabel("in-context accuracy")
    axis.margins(y=0.25)
    axis.legend(loc="upper left", ncols=3, borderaxespad=0)


def _settings(axis: Axes, rows: list[dict]) -> None:
    axis.set_title("Fine-tuning settings, selection set")
    groups = sorted({(r["optimizer"], r["epochs"]) for r in rows})
    for index, (optimizer, epochs) in enumerate(groups):
        own = sorted(
            (r for r in rows if (r["optimizer"], r["epochs"]) == (optimizer, epochs)),
            key=lambda r: r["learning_rate"],
        )
        colour = (theme.FT, theme.SECOND, theme.MAIN, theme.ICL)[index % 4]
        name = f"{optimizer}, {epochs} epoch{'s' if epochs > 1 else ''}"
        axis.plot(
            [r["learning_rate"] for r in own],
            [r["accuracy"] for r in own],
            "o-",
            color=colour,
            label=name,
            markersize=4,
        )
    best = next(r for r in rows if r["chosen"])
    axis.plot(
        best["learning_rate"], best["accuracy"], "o", markersize=11, markerfacecolor="none",
        markeredgecolor="#111827", label=f"chosen: {best['learning_rate']:g}",
    )  # fmt: skip
    axis.set_xscale("log")
    rates = sorted({r["learning_rate"] for r in rows})
    shown = rates[:: -(-len(rates) // _MOST_TICKS)]
    axis.set_xticks(shown, [f"{rate:g}" for rate in shown])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("learning rate")
    axis.set_ylabel("fine-tuned accuracy")
    axis.margins(y=0.25)
    axis.legend(loc="upper left", ncols=2, borderaxespad=0)
