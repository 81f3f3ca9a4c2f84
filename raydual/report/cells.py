"""The report of runs beside each other: a sweep with axes, or runs that are compared."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raydual.catalogue.entries import CONDITIONS, Metric
from raydual.cells import CellsDirectory
from raydual.report.along import along_charts
from raydual.report.compared import Compared, short
from raydual.report.controls import words_of
from raydual.report.data import Row
from raydual.report.methods import bibtex, facts, methods
from raydual.report.page import render, write_figures
from raydual.report.published import published_by_task
from raydual.report.standing import ABOVE, BELOW, SIGNS, UNTELLABLE, standings, verdict
from raydual.report.words import DASH, about_model, digits_of, interval, number, p_value, with_interval
from raydual.run_directory.storage import Storage


def write_cells_report(directory: CellsDirectory) -> Path | str:
    """Write `report.html` of a sweep with axes, and its figures, from what lies in its directory; returns where."""
    return write_comparison(Compared.of_cells(directory), directory.storage)


def write_comparison(data: Compared, storage: Storage) -> Path | str:
    """Write `report.html` and `figures/` of runs beside each other; returns where it is."""
    sections = [_section(data, axis) for axis, values in data.axes.items() if len(values) > 1]
    write_figures(storage, [chart for section in sections for chart in section["charts"]])
    runs, first = data.runs, next(iter(data.runs.values()))
    differs = {name for name in dict(facts(first)) if len({dict(facts(run)).get(name) for run in runs.values()}) > 1}
    verdicts = list(_verdict_rows(data))
    said = [verdict for row in verdicts for cell in row["cells"] for verdict, _ in cell]
    page = render(
        "cells.html",
        name=data.name,
        findings=list(_findings(data)),
        about_model=next(filter(None, map(about_model, runs.values())), None),
        axes=list(map(short, data.axes)),
        margin=first.config.measures.margin,
        columns=[_column(data.catalogue[name], condition) for name, condition in data.keys],
        table=[_run_row(data, name) for name in runs],
        places=[", ".join(data.values[name].values()) for name in runs],
        verdicts=verdicts,
        words=words_of(said),
        signs=SIGNS,
        along_words=words_of(verdict(row) for row in data.comparisons if row["n"]),
        sections=sections,
        failures=[(data.named(name), *failure) for name, run in runs.items() for failure in run.run.failures()],
        published=published_by_task([(", ".join(data.values[name].values()), run) for name, run in runs.items()]),
        facts=[(name, value) for name, value in facts(first) if name not in differs],
        different=[(data.named(place), [(n, v) for n, v in facts(run) if n in differs]) for place, run in runs.items()],
        methods=methods(first),
        bibtex=bibtex(),
        filters=list({name: data.catalogue[name] for name, _ in data.keys}.values()),
        metrics=list(data.catalogue.values()),
    )
    return storage.write_page("report.html", page)


def _column(metric: Metric, condition: str) -> dict[str, str]:
    return {
        "name": metric.name,
        "label": metric.label,
        "condition": "" if condition == "icl-ft" else CONDITIONS[condition],
    }


def _run_row(data: Compared, name: str) -> dict[str, Any]:
    rows = [(data.runs[name].overall(*key), digits_of(data.catalogue[key[0]])) for key in data.keys]
    return {
        "values": list(data.values[name].values()),
        "link": data.links.get(name, ""),
        "n": rows[0][0]["n"] if rows[0][0] else 0,
        "cells": [
            {"mean": number(row["mean"] if row else None, digits), "interval": interval(row, digits) if row else ""}
            for row, digits in rows
        ],
    }


def _verdict_rows(data: Compared) -> Iterator[dict[str, Any]]:
    """For each similarity: what it is above, below and so on in each run, as (verdict, names) pairs."""
    found = {name: {s.metric.name: s for s in standings(run)} for name, run in data.runs.items()}
    for metric in data.catalogue.values():
        if not any(metric.name in of_run for of_run in found.values()):
            continue
        cells = []
        for of_run in found.values():
            standing = of_run.get(metric.name)
            judged = standing.verdicts.items() if standing else ()
            answers = [(answer, [name for name, one in judged if one.verdict == answer]) for answer in SIGNS]
            cells.append([(answer, ", ".join(names)) for answer, names in answers if names])
        yield {"name": metric.name, "label": metric.label, "cells": cells}


def _findings(data: Compared) -> Iterator[str]:
    """What changes along each axis, as far as it can be told from chance."""
    axes = "; ".join(f"{short(axis)} {', '.join(values)}" for axis, values in data.axes.items())
    yield f"{len(data.runs)} combinations: {axes}." if list(data.axes) != ["run"] else f"{len(data.runs)} runs: {axes}."
    for axis, values in data.axes.items():
        for row in (row for row in data.comparisons if row["axis"] == axis):
            if verdict(row) in (ABOVE, BELOW):
                yield from _change(data, axis, row)
        answers = {verdict(row) for row in data.comparisons if row["axis"] == axis}
        if len(values) > 1 and answers == {UNTELLABLE}:
            yield f"Along {short(axis)} nothing can be told with so few seeds."
        elif len(values) > 1 and not answers & {ABOVE, BELOW}:
            yield f"Along {short(axis)} no change can be told from chance."


def _change(data: Compared, axis: str, row: Row) -> Iterator[str]:
    metric = data.catalogue[row["metric"]]
    digits, others = digits_of(metric), data.others(axis, row["cell"])
    first, found = (data.runs[row[c]].overall(metric.name, row["condition"]) for c in ("reference", "cell"))
    if first and found:
        yield (
            f"{metric.label}, {CONDITIONS[row['condition']]}: from {with_interval(first, digits)} "
            f"at {short(axis)} {data.axes[axis][0]} to {with_interval(found, digits)} "
            f"at {data.values[row['cell']][axis]} {p_value(row['p_max_t'])}{f', {others}' if others else ''}."
        )


def _section(data: Compared, axis: str) -> dict[str, Any]:
    rows: dict[str, list[Row]] = {}
    for row in data.comparisons:
        if row["axis"] == axis:
            rows.setdefault(row["cell"], []).append(row)
    return {
        "anchor": f"along-{axis.replace('.', '-')}",
        "name": short(axis),
        "first": data.axes[axis][0],
        "others": len(data.axes) > 1,
        "charts": along_charts(data, axis),
        "rows": [
            {
                "label": ", ".join(
                    filter(None, (f"{short(axis)} {data.values[place][axis]}", data.others(axis, place)))
                ),
                "cells": [
                    _difference(data, next(r for r in found if (r["metric"], r["condition"]) == key))
                    for key in data.keys
                ],
            }
            for place, found in rows.items()
        ],
    }


def _difference(data: Compared, row: Row) -> dict[str, str]:
    digits = digits_of(data.catalogue[row["metric"]])
    if not row["n"]:
        return {"difference": DASH, "sign": "", "verdict": "", "test": "no seed has both"}
    answer = verdict(row)
    test = f"{interval(row, digits)} {p_value(row['p_max_t'])}, n = {row['n']}" if row["n"] > 1 else "one seed"
    return {
        "difference": number(row["difference"], digits),
        "sign": SIGNS[answer],
        "verdict": answer,
        "test": test,
    }
