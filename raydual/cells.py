"""A sweep with axes: a run directory for each cell, and the cells beside each other."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydual.errors import UserError
from raydual.loading import Sweep
from raydual.metrics.bootstrap import Bootstrap
from raydual.metrics.catalogue import CATALOGUE, OVERALL
from raydual.metrics.statistics import compare_all, holm
from raydual.results import COMPARISONS, NO_CONTROL, SUMMARY, RunDirectory, check_unused, write_table, write_text

Row = dict[str, Any]

ALONG_AXES = pa.schema(
    [
        pa.field("axis", pa.string(), False, {"description": "the setting in which the two cells differ"}),
        pa.field("cell", pa.string(), False),
        pa.field("reference", pa.string(), False, {"description": "the cell with the axis's first value"}),
        *(COMPARISONS.field(name) for name in ("metric", "condition", "n", "difference", "ci_low", "ci_high", "above")),
        pa.field("p", pa.float64(), False, {"description": "Wilcoxon's signed-rank test, two-sided"}),
        pa.field("p_holm", pa.float64(), False, {"description": "corrected over all pairs of cells of an axis"}),
    ]
)
"""The overall metrics of every cell minus those of the cell with the axis's first value, paired over seeds."""


@dataclass(frozen=True)
class CellsDirectory:
    """The files of a sweep with axes. It holds no absolute path, so it can be moved."""

    path: Path

    @property
    def sweep_file(self) -> Path:
        """The axes and the cells."""
        return self.path / "cells.json"

    @property
    def summary_file(self) -> Path:
        """The distributions of all cells, with a column for the cell and for every axis."""
        return self.path / "summary.parquet"

    @property
    def comparisons_file(self) -> Path:
        """The cells compared along each axis (`ALONG_AXES`)."""
        return self.path / "comparisons.parquet"

    @property
    def report_file(self) -> Path:
        """The report that compares the cells."""
        return self.path / "report.html"

    def cell(self, name: str) -> RunDirectory:
        """The run directory of a cell."""
        return RunDirectory(self.path / "cells" / name)

    def check(self, sweep: Sweep, resume: bool) -> None:
        """Check that the directory is new, or holds a sweep with the same axes and may be gone on with.

        Raises
        ------
        UserError
            Without `resume` something is there already; with it there is nothing, or something else.
        """
        if not resume:
            check_unused(self.path)
        elif not self.sweep_file.is_file():
            raise UserError(f"{self.path}: nothing to resume, it holds no cells.json; leave --resume out")
        elif list(self.stored()["axes"]) != list(sweep.axes):
            raise UserError(
                f"{self.path}: cannot resume with other axes, it has {', '.join(self.stored()['axes'])}; "
                "use the same, or another --output"
            )

    def start(self, sweep: Sweep) -> None:
        """Make the directory, if need be, and store the axes and cells."""
        stored = {"name": sweep.name, "axes": sweep.axes, "cells": {cell.name: cell.values for cell in sweep.cells}}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.sweep_file, json.dumps(stored, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"{self.path}: cannot write the directory: {error.strerror}") from None

    def stored(self) -> dict[str, Any]:
        """`name`, `axes` (the values of each in words) and `cells` (the value of each axis, by the cell's name)."""
        try:
            return json.loads(self.sweep_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{self.sweep_file}: cannot be read ({error}); run the sweep again with --resume") from None

    def summary(self) -> pa.Table:
        """The distributions of all cells."""
        return pq.read_table(self.summary_file)

    def comparisons(self) -> pa.Table:
        """The cells compared along each axis."""
        return pq.read_table(self.comparisons_file)


def reduce_cells(directory: CellsDirectory) -> None:
    """Write `summary.parquet` and `comparisons.parquet` of a sweep whose cells have been reduced."""
    stored = directory.stored()
    tables = []
    for name, values in stored["cells"].items():
        table = directory.cell(name).summary()
        for column, value in {"cell": name, **values}.items():
            table = table.append_column(column, pa.array([value] * len(table), pa.string()))
        tables.append(table)
    axes = [pa.field(column, pa.string(), False) for column in ("cell", *stored["axes"])]
    write_table(directory.summary_file, pa.concat_tables(tables), pa.schema([*SUMMARY, *axes]))
    rows = list(_along_axes(directory, stored))
    write_table(directory.comparisons_file, pa.Table.from_pylist(rows, ALONG_AXES), ALONG_AXES)


def pairs_along(axis: str, values: list[str], cells: dict[str, dict[str, str]]) -> Iterator[tuple[str, str]]:
    """(cell, reference) for every cell and the one that differs from it only in having the axis's first value."""
    by_values = {tuple(sorted(own.items())): name for name, own in cells.items()}
    for name, own in cells.items():
        if own[axis] != values[0]:
            yield name, by_values[tuple(sorted({**own, axis: values[0]}.items()))]


def _along_axes(directory: CellsDirectory, stored: dict[str, Any]) -> Iterator[Row]:
    seeds = {name: _by_seed(directory.cell(name)) for name in stored["cells"]}
    measures = directory.cell(next(iter(stored["cells"]))).config().measures
    bootstrap = Bootstrap(measures.resamples, measures.noise_seed)
    keys = [(metric.name, condition) for metric in CATALOGUE.values() for condition in metric.conditions]
    for axis, values in stored["axes"].items():
        pairs = list(pairs_along(axis, values, stored["cells"]))
        for metric, condition in keys:
            differences = [_differences(seeds[a], seeds[b], (metric, condition)) for a, b in pairs]
            found = compare_all(differences, bootstrap)
            corrected = holm(np.array([comparison.p for comparison in found]))
            for (cell, reference), comparison, p in zip(pairs, found, corrected.tolist(), strict=True):
                place = {"axis": axis, "cell": cell, "reference": reference, "metric": metric, "condition": condition}
                yield {**place, **asdict(comparison), "p_holm": p}


def _by_seed(run: RunDirectory) -> dict[tuple[str, str], dict[int, float]]:
    """The overall value of every seed, by (metric, condition)."""
    overall = (pc.field("layer") == OVERALL) & (pc.field("control") == NO_CONTROL)
    table = run.measured(["metric", "condition", "seed", "value"], overall)
    found: dict[tuple[str, str], dict[int, float]] = {}
    for row in table.to_pylist():
        found.setdefault((row["metric"], row["condition"]), {})[row["seed"]] = row["value"]
    return found


def _differences(first: dict, second: dict, key: tuple[str, str]) -> np.ndarray:
    """One value minus the other, for the seeds that both cells measured."""
    own, reference = first.get(key, {}), second.get(key, {})
    return np.array([own[seed] - reference[seed] for seed in sorted(own.keys() & reference.keys())], dtype=float)
