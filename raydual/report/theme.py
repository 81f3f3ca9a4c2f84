"""Colours, shapes and dashes that mean the same thing in every figure, light, dark and in grey.

A colour is a CSS variable: the page gives it a light and a dark value, a figure's own file has the light one.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

LIGHT = {
    "ink": "#1b2330", "muted": "#535d6c", "line": "#d9dee6", "grid": "#e9ecf1", "axis": "#8a93a1", "card": "#ffffff",
    "page": "#f5f6f8", "soft": "#eef0f6", "accent": "#3b2f8f", "main": "#3b2f8f", "second": "#00795a",
    "third": "#a8497e", "icl": "#0067a3", "ft": "#c04d00", "zsl": "#596372", "null": "#737c89", "warn": "#c04d00",
}  # fmt: skip
DARK = {
    "ink": "#e8ebf1", "muted": "#a9b2c0", "line": "#38404d", "grid": "#2a313c", "axis": "#7f8997", "card": "#1a1f27",
    "page": "#12161c", "soft": "#232a35", "accent": "#b3a8ff", "main": "#b3a8ff", "second": "#3fcf9f",
    "third": "#ee9cc6", "icl": "#5cb8f0", "ft": "#ff9a5c", "zsl": "#a2abb9", "null": "#98a1ae", "warn": "#ff9a5c",
}  # fmt: skip
"""Okabe and Ito's hues, darkened or lightened until text has a contrast of 4.5 on its ground and marks one of 3."""


def colour(name: str) -> str:
    """A colour of `LIGHT` and `DARK`, as figures name it."""
    return f"var(--{name})"


def css() -> str:
    """The colours as CSS variables; printed pages are light."""
    light, dark = ("".join(f"--{name}:{value};" for name, value in values.items()) for values in (LIGHT, DARK))
    return (
        f":root{{color-scheme:light;{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{color-scheme:dark;{dark}}}}}"
    )


def in_light(svg: str) -> str:
    """The same picture with its light colours written in."""
    for name, value in LIGHT.items():
        svg = svg.replace(f"var(--{name})", value)
    return svg


@dataclass(frozen=True)
class Look:
    """How a series is drawn: a colour, a shape and a dash, each of which tells it apart alone."""

    colour: str
    shape: str = "circle"
    dash: tuple[int, ...] = (1, 0)
    filled: bool = True


OF_CONDITION = {
    "zsl": Look(colour("zsl"), "square", (4, 3)),
    "icl": Look(colour("icl"), "circle"),
    "ft": Look(colour("ft"), "triangle-up", (7, 3)),
    "patch": Look(colour("third"), "triangle-down", (2, 2)),
    "ft_all": Look(colour("second"), "cross", (8, 2, 2, 2)),
}
MAIN = Look(colour("main"), "diamond")
_COMPARISONS = (
    MAIN,
    Look(colour("second"), "triangle-up", (7, 3)),
    Look(colour("third"), "square", (3, 2)),
    Look(colour("ft"), "triangle-down", (8, 2, 2, 2)),
    Look(colour("icl"), "cross", (2, 2)),
    Look(colour("main"), "triangle-left", (10, 3)),
    Look(colour("second"), "square", (1, 2)),
    Look(colour("third"), "triangle-right", (6, 2, 1, 2)),
    Look(colour("ft"), "circle", (4, 4)),
)
_NULLS = (
    Look(colour("null"), "circle", (5, 3), filled=False), Look(colour("null"), "square", (2, 2), filled=False),
    Look(colour("zsl"), "triangle-up", (8, 3, 2, 3), filled=False), Look(colour("zsl"), "cross", (1, 3), filled=False),
)  # fmt: skip
_VARIANTS = (
    Look(colour("second"), "triangle-up", (7, 3)), Look(colour("third"), "square", (3, 2)),
    Look(colour("ft"), "triangle-down", (8, 2, 2, 2)), Look(colour("icl"), "cross", (2, 2)),
)  # fmt: skip


def comparisons() -> Iterator[Look]:
    """Looks of comparisons of context and fine-tuning, without end."""
    return itertools.cycle(_COMPARISONS)


def nulls() -> Iterator[Look]:
    """Looks of nulls, baselines and controls without a learnt link, without end: grey and open."""
    return itertools.cycle(_NULLS)


def variants() -> Iterator[Look]:
    """Looks of controls that keep the link, without end."""
    return itertools.cycle(_VARIANTS)


FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

CONFIG: dict[str, Any] = {
    "background": None,
    "font": FONT,
    "aria": False,
    "padding": 4,
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal", "labelColor": colour("muted"),
        "titleColor": colour("muted"), "domainColor": colour("axis"), "tickColor": colour("axis"),
        "gridColor": colour("grid"), "tickSize": 4, "labelPadding": 3, "titlePadding": 6, "tickCount": 5,
    },
    "legend": {
        "labelFontSize": 11, "labelColor": colour("ink"), "symbolStrokeColor": colour("ink"), "title": None,
        "orient": "top", "direction": "horizontal", "columnPadding": 20, "rowPadding": 1, "symbolSize": 50, "offset": 4,
        "labelLimit": 170, "symbolStrokeWidth": 1.5, "symbolOpacity": 1,
    },
    "text": {"color": colour("ink"), "font": FONT, "fontSize": 11},
    "rule": {"color": colour("axis")},
}  # fmt: skip
"""What every figure has; its text is at least 11 pixels, so that it is at least 9 in the narrowest page."""
