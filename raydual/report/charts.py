"""Figures as Vega-Lite draws them: a still picture for the page and for a file, numbers as CSV, and what moves."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from markupsafe import Markup, escape

from raydual.catalogue.entries import Metric
from raydual.report import theme

Row = dict[str, Any]
VEGA_LITE = "6.4"
WIDTH, HEIGHT, BROAD = 340, 230, 360
_ONE_LINE = 15
_WIDEST_LETTER, _BESIDE_LABEL = 7, 9


def series_axis(labels: Iterable[str]) -> dict[str, Any]:
    """An axis of names, in lines of a word where they are long.

    Its room is that of a wide font: which one a page has is not known where its room is measured.
    """
    lines = [line for label in labels for line in (label.split(" ") if len(label) > _ONE_LINE else [label])]
    return {
        "labelLimit": 170,
        "ticks": False,
        "labelPadding": _BESIDE_LABEL,
        "labelExpr": f"length(datum.label) > {_ONE_LINE} ? split(datum.label, ' ') : datum.label",
        "minExtent": _BESIDE_LABEL + _WIDEST_LETTER * max(map(len, lines), default=0),
    }


@dataclass(frozen=True)
class Chart:
    """One panel.

    Parameters
    ----------
    name : of its files, and of its place in the page.
    title, description : what it is, and what it shows in words, for who cannot see it.
    rows : its numbers: what is drawn, and what is written as CSV.
    spec : the marks and encodings, in Vega-Lite's grammar; the rest (data, size, looks) is added here.
    metrics : which metrics it is about, so that it can be filtered.
    moving : whether it has controls of its own, and so makes sense only where scripts run.
    """

    name: str
    title: str
    description: str
    rows: list[Row]
    spec: dict[str, Any]
    metrics: tuple[str, ...] = ()
    width: int = WIDTH
    height: int = HEIGHT
    moving: bool = field(default=False)

    @property
    def full(self) -> dict[str, Any]:
        """The whole specification."""
        drawn = [{k: v for k, v in row.items() if not _is_nan(v)} for row in self.rows]
        return {
            "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
            "config": theme.CONFIG,
            "width": self.width,
            "height": self.height,
            "autosize": {"type": "fit", "contains": "padding"},
            "data": {"values": drawn},
            **self.spec,
        }

    @cached_property
    def svg(self) -> Markup:
        """The still picture, the same bytes each time, coloured by the page's variables."""
        import vl_convert  # a browser engine, which nothing but figures needs

        drawn = vl_convert.vegalite_to_svg(self.full, vl_version=VEGA_LITE)
        drawn = re.sub(r' (?:role="graphics-[a-z]+"|aria-roledescription="[^"]*"|aria-hidden="true")', "", drawn)
        # Vega counts its clips through all pictures of a process; the page needs each name once.
        drawn = re.sub(r"\b(?:clip|gradient_)(\d+)\b", "clip\\1", drawn)
        for number, found in enumerate(dict.fromkeys(re.findall(r"\bclip\d+\b", drawn))):
            drawn = re.sub(rf"\b{found}\b", f"{self.name}-part-{number}", drawn)
        title = f'<title id="{self.name}-title">{escape(self.title)}</title>'
        head = f'{title}<desc id="{self.name}-desc">{escape(self.description)}</desc>'
        opened = f'<svg role="img" aria-labelledby="{self.name}-title" aria-describedby="{self.name}-desc"'
        return Markup(re.sub(r"^<svg([^>]*)>", lambda m: f"{opened}{m[1]}>{head}", drawn))  # noqa: S704

    @property
    def file(self) -> bytes:
        """The picture as a file of its own, in light colours."""
        return theme.in_light(self.svg).encode()

    @property
    def csv(self) -> bytes:
        """The numbers; what is undefined is empty. How a row looks is left out."""
        columns = [name for name in dict.fromkeys(k for row in self.rows for k in row) if not name.startswith("_")]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: "" if _is_nan(v) else v for k, v in row.items()} for row in self.rows)
        return text.getvalue().encode()

    @property
    def json(self) -> Markup:
        """The specification inside a page: no text in it can end the script element."""
        packed = json.dumps(_short(self.full), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return Markup(packed.replace("<", "\\u003c").replace("&", "\\u0026"))  # noqa: S704


@cache
def library() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script, as vl-convert carries them."""
    import vl_convert

    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed", vl_version=VEGA_LITE)
    return Markup(script.replace("</script", "<\\/script"))  # noqa: S704


def _is_nan(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _short(value: Any) -> Any:
    """Numbers with as many digits as a picture can show."""
    if isinstance(value, dict):
        return {k: _short(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_short(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


# Parts that figures have in common


def limits(values: Iterable[float | None], metric: Metric | None = None, *, zero: bool = False) -> list[float]:
    """An axis that shows all values with some air, but nothing beyond what the metric can be."""
    found = [value for value in values if value is not None and math.isfinite(value)] + ([0.0] if zero else [])
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    air = 0.07 * (high - low) or 0.05 * max(abs(high), 1.0)
    least, most = metric.bounds if metric else (None, None)
    bottom = low - air if least is None else max(low - air, min(least, low))
    top = high + air if most is None else min(high + air, max(most, high))
    return [bottom, top] if top > bottom else [bottom - air, top]


def only(**equal: Any) -> list[dict[str, Any]]:
    """A transform that keeps the rows with these values."""
    return [{"filter": {"and": [{"field": name, "equal": value} for name, value in equal.items()]}}]


def number(name: str, title: str, digits: int = 3) -> dict[str, str]:
    """A number in what is shown where the pointer rests."""
    return {"field": name, "type": "quantitative", "title": title, "format": f".{digits}f"}


def word(name: str, title: str) -> dict[str, str]:
    """A word, or a whole number, in what is shown where the pointer rests."""
    return {"field": name, "type": "nominal", "title": title}


def interval_hover(digits: int = 3, *first: dict[str, str]) -> list[dict[str, str]]:
    """Mean, interval and number of seeds."""
    low, high = number("ci_low", "95 % from", digits), number("ci_high", "95 % to", digits)
    return [*first, number("mean", "mean", digits), low, high, word("n", "seeds")]


def raw(name: str) -> dict[str, Any]:
    """A field that holds colours or shapes themselves."""
    return {"field": name, "type": "nominal", "scale": None}


def looks(names: Sequence[str], drawn: Sequence[theme.Look]) -> dict[str, Any]:
    """Encodings of `series` by colour, shape and dash at once, with one legend for all."""
    legend = {"columns": 2, "symbolType": "circle"}
    return {
        "color": {
            "field": "series", "type": "nominal", "sort": None, "legend": legend | {"symbolType": None},
            "scale": {"domain": list(names), "range": [look.colour for look in drawn]},
        },
        "shape": {
            "field": "series", "type": "nominal", "sort": None,
            "scale": {"domain": list(names), "range": [look.shape for look in drawn]},
        },
        "strokeDash": {
            "field": "series", "type": "nominal", "sort": None,
            "scale": {"domain": list(names), "range": [list(look.dash) for look in drawn]},
        },
    }  # fmt: skip
