"""`report.html`: one self-contained page, and its figures and their numbers as files beside it."""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from raydual.catalogue.entries import CONDITIONS, OVERALL, Metric
from raydual.plan.power import contrast_of, is_usable, power
from raydual.report import theme
from raydual.report.charts import Chart, library
from raydual.report.controls import control_charts, control_table, standing_table, words_of
from raydual.report.data import Row, RunData
from raydual.report.distributions import distribution_charts
from raydual.report.explore import explore_charts
from raydual.report.layers import layer_charts
from raydual.report.methods import bibtex, facts, methods, subtitle
from raydual.report.published import published_table
from raydual.report.scatter import scatter_charts
from raydual.report.search import search_charts
from raydual.report.shots import shots_charts, shots_table
from raydual.report.words import (
    about_model,
    digits_of,
    findings,
    interval,
    interval_both,
    number,
    with_difference,
    with_interval,
)
from raydual.run_directory.directory import RunDirectory
from raydual.run_directory.storage import Storage

_SECTIONS = {
    "how": "How to read this", "numbers": "Headline numbers",
    "published": "Beside published numbers", "seeds": "Distributions over seeds", "controls": "Controls",
    "layers": "Through the layers", "scatter": "Seed by seed", "shots": "Over the number of demonstrations",
    "search": "What the search tried", "failed": "Failed and undefined",
    "methods": "Methods, ready to paste",
    "run": "What was run", "metrics": "What the metrics are",
}  # fmt: skip


def write_report(run: RunDirectory, manifest: Row | None = None) -> Path | str:
    """Write `report.html`, `figures/*.svg` and `figures/*.csv` from what lies in the run directory; returns where.

    `manifest` is that of a run that is about to be complete; default: the one that it holds, if any.

    Raises
    ------
    UserError
        A file of the run is missing or broken.
    """
    data = RunData(run, manifest)
    figures = _figures(data)
    write_figures(run.storage, [chart for charts in figures.values() for chart in charts])
    headline = data.headline()
    about: dict[str, Any] = {
        "failures": run.failures(),
        "undefined": list(_undefined(data)),
        "published": published_table(data),
        "controls": data.controls,
        "figures": figures,
    }
    table = control_table(data)
    page = render(
        "run.html",
        name=data.config.name,
        subtitle=subtitle(data),
        findings=list(findings(data)),
        about_model=about_model(data),
        contents=[(anchor, title) for anchor, title in _SECTIONS.items() if _is_there(anchor, about)],
        facts=facts(data),
        standing=standing_table(data),
        control_table=table,
        control_words=words_of(cell.verdict for row in table for cell in row["cells"]),
        table=[_table_row(data, metric, row) for metric, row in headline],
        filters=list({metric.name: metric for metric, _ in headline}.values()),
        metrics=list(data.catalogue.values()),
        methods=methods(data),
        bibtex=bibtex(),
        own=data.config.measures.own,
        protocol=data.config.protocol,
        shots_table=shots_table(data),
        **about,
    )
    return run.storage.write_page("report.html", page)


def _is_there(anchor: str, about: dict[str, Any]) -> bool:
    if anchor == "failed":
        return bool(about["failures"] or about["undefined"])
    if anchor in ("published", "controls"):
        return bool(about[anchor])
    return anchor not in ("shots", "search") or bool(about["figures"].get(anchor))


def write_figures(storage: Storage, charts: list[Chart]) -> None:
    """Every chart as a picture, and its numbers."""
    for chart in charts:
        storage.write(f"figures/{chart.name}.svg", chart.file)
        storage.write(f"figures/{chart.name}.csv", chart.csv)


def render(template: str, **values: Any) -> str:
    """A page from its template; what is filled in is escaped."""
    return _environment().get_template(template).render(page=_looks(), **values)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


@cache
def _looks() -> dict[str, Markup]:
    """What every page has beside its content: colours, style, and the scripts of what moves."""
    files = {name: (Path(__file__).with_name(file)).read_text(encoding="utf-8") for name, file in
             (("style", "style.css"), ("script", "script.js"))}  # fmt: skip
    ours = {name: Markup(text) for name, text in ({"colours": theme.css()} | files).items()}  # noqa: S704
    return ours | {"library": library()}


def _figures(data: RunData) -> dict[str, list[Chart]]:
    return {
        "seeds": distribution_charts(data),
        "controls": control_charts(data),
        "layers": layer_charts(data),
        "explore": explore_charts(data),
        "scatter": scatter_charts(data),
        "search": search_charts(data),
        "shots": shots_charts(data),
    }


def _undefined(data: RunData) -> Iterator[Row]:
    """Overall values that are undefined, by metric, control and reason."""
    for (metric, condition, control, reason), seeds in data.undefined.items():
        if metric in data.catalogue and condition in CONDITIONS:
            yield {
                "label": data.catalogue[metric].label,
                "condition": CONDITIONS[condition],
                "control": control,
                "seeds": seeds,
                "reason": reason,
            }


def _table_row(data: RunData, metric: Metric, row: Row) -> dict[str, Any]:
    digits = digits_of(metric)
    beside = []
    for name, condition in data.catalogue.baselines_of(metric, row["condition"]):
        baseline = data.overall(name, condition)
        if baseline:
            label = data.catalogue[name].label if name != metric.name else f"{metric.label}, {CONDITIONS[condition]}"
            compared = data.against(metric.name, name, condition, row["condition"])
            tested = f"; difference {with_difference(compared, digits)}" if compared and compared["n"] > 1 else ""
            beside.append(f"{label}: {with_interval(baseline, digits)}{tested}")
    beside += [told] if (told := _detectable(data, metric, row["condition"], digits)) else []
    return {
        "name": metric.name,
        "label": metric.label,
        "condition": CONDITIONS[row["condition"]],
        "mean": number(row["mean"], digits),
        "interval": interval(row, digits),
        "both": interval_both(row, digits),
        "sd": number(row["sd"], digits),
        "median": number(row["median"], digits),
        "range": f"{number(row['min'], digits)} to {number(row['max'], digits)}" if row["n"] else "-",
        "n": row["n"],
        "undefined": row["undefined"],
        "beside": beside,
    }


def _detectable(data: RunData, metric: Metric, condition: str, digits: int) -> str | None:
    """The smallest difference that the run could have found, beside what is the hardest to tell the metric from."""
    found = []
    for compared in (*data.comparisons.values(), *data.control_comparisons.values()):
        row = compared[OVERALL]
        if (row["metric"], row["condition"]) == (metric.name, condition) and is_usable(row):
            contrast = contrast_of(row, metric, row["tests"])
            found.append(power(contrast, row["n"], row["examples"] or 1))
    if not found:
        return None
    hardest = max(found, key=lambda one: one.detectable)
    if math.isinf(hardest.detectable):
        return f"No difference from {hardest.against} can be found with so few seeds"
    more = (
        ""
        if math.isnan(hardest.detectable_both)
        else f" ({number(hardest.detectable_both, digits)} of other examples too)"
    )
    return (
        f"Found four times of five: a difference from {hardest.against} of {number(hardest.detectable, digits)} or "
        f"more{more}"
    )
