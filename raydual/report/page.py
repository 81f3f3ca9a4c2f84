"""`report.html`: one self-contained page, and the figures as files beside it."""

import math
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from raydual.catalogue.entries import CONDITIONS, OVERALL, Metric
from raydual.plan.power import contrast_of, is_usable, power
from raydual.report import theme
from raydual.report.controls import control_figure, control_table, standing_table
from raydual.report.data import Row, RunData
from raydual.report.distributions import distribution_figure
from raydual.report.layers import layer_figure
from raydual.report.published import published_table
from raydual.report.search import search_figure
from raydual.report.shots import shots_figure, shots_table
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


def write_report(run: RunDirectory, manifest: Row | None = None) -> Path | str:
    """Write `report.html` and `figures/*.svg` from what lies in the run directory; returns where it is.

    `manifest` is that of a run that is about to be complete; default: the one that it holds, if any.

    Raises
    ------
    UserError
        A file of the run is missing or broken.
    """
    data = RunData(run, manifest)
    figures = _figures(data)
    for name, svg in figures.items():
        run.storage.write(f"figures/{name}.svg", svg.encode())
    page = (
        environment()
        .get_template("run.html")
        .render(
            name=data.config.name,
            about_model=about_model(data),
            findings=list(findings(data)),
            facts=_facts(data),
            failures=run.failures(),
            published=published_table(data),
            standing=standing_table(data),
            controls=data.controls,
            control_table=control_table(data),
            shots_table=shots_table(data),
            table=[_table_row(data, metric, row) for metric, row in data.headline()],
            # The SVG is made here, from numbers, and holds no text of the user's.
            figures={name: Markup(svg) for name, svg in figures.items()},  # noqa: S704
            metrics=list(data.catalogue.values()),
            own=data.config.measures.own,
            protocol=data.config.protocol,
            manifest=data.manifest,
        )
    )
    return run.storage.write_page("report.html", page)


def environment() -> jinja2.Environment:
    """The templates of reports; what is filled in is escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def _figures(data: RunData) -> dict[str, str]:
    with theme.style():
        made = {
            "distributions": distribution_figure(data),
            "controls": control_figure(data),
            "layers": layer_figure(data),
            "shots": shots_figure(data),
            "search": search_figure(data),
        }
        return {name: theme.as_svg(figure) for name, figure in made.items() if figure is not None}


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


def _facts(data: RunData) -> list[tuple[str, str]]:
    """What was run, as (name, value) pairs."""
    config = data.config
    zero_shot = data.overall("accuracy", "zsl")
    measured = zero_shot["n"] if zero_shot else 0
    tuning = data.manifest.get("finetune") or config.finetune.model_dump(mode="json")
    searched = "chosen by the search" if config.search.finetune else "as the sweep says"
    candidates = f", the best of {len(config.seeds)} candidates" if config.search.seeds else ""
    facts = [
        ("Model", f"{config.model} ({config.dtype})"),
        (
            "Task",
            f"{config.task.name}: “{config.task.template}”, labels {', '.join(config.task.label_words)}",
        ),
        (
            "Data",
            config.data if isinstance(config.data, str) else f"{config.data.train}, {config.data.validation}",
        ),
        ("Demonstrations", f"{config.demonstrations}, joined by {config.task.separator!r}"),
        ("Seeds", f"{measured} measured{candidates}; {len(data.run.failures())} failed"),
        (
            "Fine-tuning",
            f"{tuning['optimizer']}, learning rate {tuning['learning_rate']:g}, {tuning['epochs']} epoch(s), "
            f"{'one step for all demonstrations, ' if tuning.get('batch') == 'all' else ''}"
            f"loss over {tuning['loss']} tokens, {' and '.join(tuning['projections'])}; {searched}",
        ),
        ("Protocol", _PROTOCOLS[config.protocol]),
    ]
    return facts + _from_manifest(data.manifest)


_PROTOCOLS = {
    "split": "split: chosen on selection examples, measured on others",
    "dai": "dai: chosen and measured on the same examples, which inflates the numbers",
}


def _from_manifest(manifest: Row) -> list[tuple[str, str]]:
    if not manifest:
        return []
    seconds = ", ".join(f"{stage} {value:.0f} s" for stage, value in manifest["seconds"].items())
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    hardware = manifest["hardware"].get("ray", "reduced from what had been measured before")
    return [
        ("Hardware", hardware),
        ("Time", seconds),
        ("Versions", versions),
        ("Finished", manifest["finished_at"]),
    ]
