"""Colours and shapes that mean the same thing in every figure, and the figure that all of them start from."""

import io
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

ZSL, ICL, FT, MAIN, SECOND, NULL = "#6b7280", "#0072b2", "#d55e00", "#3b2f8f", "#009e73", "#9aa0a6"
"""Zero-shot, in-context, fine-tuned; a comparison of the two, a second one; nulls and baselines (Okabe and Ito)."""

OF_CONDITION = {"zsl": ZSL, "icl": ICL, "ft": FT, "patch": "#cc79a7", "ft_all": "#e69f00"}
_COMPARISONS = (MAIN, SECOND, "#cc79a7", "#e69f00", "#56b4e9", "#0072b2", "#d55e00", "#f0e442", "#000000")
_NULLS = (ZSL, NULL)

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#374151",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#eceff3",
    "axes.axisbelow": True,
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "path",
    "svg.hashsalt": "raydual",
}


def comparisons() -> Iterator[str]:
    """Colours of comparisons of the two, without end."""
    return itertools.cycle(_COMPARISONS)


def nulls() -> Iterator[str]:
    """Colours of nulls and baselines, without end."""
    return itertools.cycle(_NULLS)


@contextmanager
def style() -> Iterator[None]:
    """What is drawn inside the block looks like raydual's figures; nothing else is changed."""
    with matplotlib.rc_context(_STYLE):
        yield


def figure(rows: int, columns: int, height: float, widths: Sequence[float] | None = None) -> tuple[Figure, list[Axes]]:
    """A page-wide figure of `rows` by `columns` axes, `height` inches a row; widths are relative."""
    made = Figure(figsize=(10.4, height * rows), layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.08))
    axes = made.subplots(rows, columns, squeeze=False, width_ratios=widths)
    return made, list(axes.ravel())


def grid(count: int, columns: int, height: float, widths: Sequence[float] | None = None) -> tuple[Figure, list[Axes]]:
    """A page-wide figure of so many axes, row by row, as `figure`; the rest of the last row stays empty."""
    made, axes = figure(-(-count // columns), columns, height, widths)
    for axis in axes[count:]:
        axis.remove()
    return made, axes[:count]


def as_svg(made: Figure) -> str:
    """A figure as an SVG element, the same bytes each time."""
    buffer = io.StringIO()
    made.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    return text[text.index("<svg") :]
