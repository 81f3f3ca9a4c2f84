"""A sweep with axes: a run directory for each cell, and the cells beside each other."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydual.catalogue.entries import OVERALL, Metric
from raydual.errors import UserError
from raydual.run_directory.directory import (
    COMPARISONS,
    NO_CONTROL,
    SUMMARY,
    RunDirectory,
    check_unused,
    is_unused,
    json_bytes,
    made_again,
    remove_temporary,
)
from raydual.run_directory.lock import INSTEAD, locked
from raydual.run_directory.storage import RESUME, storage_at
from raydual.run_directory.tables import read_table, table_bytes
from raydual.settings.reading import Sweep
from raydual.statistics.bootstrap import Bootstrap
from raydual.statistics.family import decide
from raydual.statistics.over_seeds import compare_all, holm

Row = dict[str, Any]

ALONG_AXES = pa.schema(
    [
        pa.field("axis", pa.string(), False, {"description": "the setting in which the two cells differ"}),
        pa.field("cell", pa.string(), False),
        pa.field("reference", pa.string(), False, {"description": "the cell with the axis's first value"}),
        *(COMPARISONS.field(name) for name in ("metric", "condition", "n", "difference", "ci_low", "ci_high", "above")),
        pa.field("p", pa.float64(), False, {"description": "Wilcoxon's signed-rank test, two-sided"}),
        pa.field("p_holm", pa.float64(), False, {"description": "corrected over all pairs of cells of an axis"}),
        COMPARISONS.field("p_max_t"),
        COMPARISONS.field("p_equivalent"),
    ]
)
"""The overall metrics of every cell minus those of the cell with the axis's first value, paired over seeds."""


CELLS = "cells.json"


class CellsDirectory:
    """The files of a sweep with axes, at a local path or a URL. It holds no absolute path, so it can be moved."""

    def __init__(self, where: Path | str) -> None:
        self.storage = storage_at(where, RESUME)
        self._new = False

    def __str__(self) -> str:
        return str(self.storage)

    @property
    def path(self) -> Path:
        """The directory, on a local disk."""
        return self.storage.path()

    @property
    def sweep_file(self) -> Path:
        """The axes and the cells."""
        return self.storage.path(CELLS)

    @property
    def summary_file(self) -> Path:
        """The distributions of all cells, with a column for the cell and for every axis."""
        return self.storage.path("summary.parquet")

    @property
    def comparisons_file(self) -> Path:
        """The cells compared along each axis (`ALONG_AXES`)."""
        return self.storage.path("comparisons.parquet")

    @property
    def report_file(self) -> Path:
        """The report that compares the cells."""
        return self.storage.path("report.html")

    def cell(self, name: str) -> RunDirectory:
        """The run directory of a cell."""
        return RunDirectory(self.storage.sub(f"cells/{name}"))

    @contextmanager
    def locked(self, say: Callable[[str], None], instead: str = INSTEAD) -> Iterator[None]:
        """Hold the directory against other drivers; one whose cells hold nothing in the end is removed."""
        self._new = self.storage.make()
        try:
            with locked(self.storage, say, instead):
                remove_temporary(self.storage)
                yield
        finally:
            self.discard_if_empty()

    def check(self, sweep: Sweep, resume: bool) -> None:
        """Check that the directory is new, or holds a sweep with the same axes and may be gone on with.

        Raises
        ------
        UserError
            Without `resume` something is there already; with it there is nothing, or something else.
        """
        if not resume:
            check_unused(self.storage)
            return
        stored = self._stored_or_none()
        if stored is None and not self.storage.list("cells"):
            raise UserError(f"{self}: nothing to resume, it holds no {CELLS}; leave --resume out")
        if stored is not None and list(stored["axes"]) != list(sweep.axes):
            raise UserError(
                f"{self}: cannot resume with other axes, it has {', '.join(stored['axes'])}; "
                "use the same, or another --output"
            )

    def start(self, sweep: Sweep) -> None:
        """Make the directory, if need be, and store the axes and cells."""
        stored = {"name": sweep.name, "axes": sweep.axes, "cells": {cell.name: cell.values for cell in sweep.cells}}
        self.storage.make()
        if any(entry.name == CELLS and entry.folder for entry in self.storage.list()):
            self.storage.rename(CELLS, f"{CELLS}.damaged")
        self.storage.write(CELLS, json_bytes(stored))

    def discard_if_empty(self) -> None:
        """Remove the axes, and the directory, if no cell has stored anything."""
        with contextlib.suppress(UserError, OSError):
            self.storage.remove_empty("cells", itself=False)
            if not self.storage.list("cells") and is_unused(self.storage, (CELLS,)):
                self.storage.remove(CELLS)
                self.storage.remove_empty(itself=self._new)

    def stored(self) -> dict[str, Any]:
        """`name`, `axes` (the values of each in words) and `cells` (the value of each axis, by the cell's name)."""
        try:
            found = json.loads(self.storage.read_text(CELLS))
            return {"name": str(found["name"]), "axes": dict(found["axes"]), "cells": dict(found["cells"])}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.storage.at(CELLS)}: damaged ({error}); run the sweep again with --resume, which writes it anew"
            ) from None

    def _stored_or_none(self) -> dict[str, Any] | None:
        with contextlib.suppress(UserError):
            return self.stored() if self.storage.exists(CELLS) else None
        return None

    def summary(self) -> pa.Table:
        """The distributions of all cells."""
        axes = [pa.field(column, pa.string(), False) for column in ("cell", *self.stored()["axes"])]
        return read_table(self.storage, "summary.parquet", pa.schema([*SUMMARY, *axes]), made_again(self.storage))

    def comparisons(self) -> pa.Table:
        """The cells compared along each axis."""
        return read_table(self.storage, "comparisons.parquet", ALONG_AXES, made_again(self.storage))


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
    schema = pa.schema([*SUMMARY, *axes])
    directory.storage.write("summary.parquet", table_bytes(pa.concat_tables(tables), schema))
    runs = {name: directory.cell(name) for name in stored["cells"]}
    along = list(compare_along(stored["axes"], stored["cells"], runs))
    table = pa.Table.from_pylist(along, ALONG_AXES)
    directory.storage.write("comparisons.parquet", table_bytes(table, ALONG_AXES))


def pairs_along(axis: str, values: Sequence[str], cells: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """(cell, reference) for every cell and the one that differs from it only in having the axis's first value."""
    by_values = {tuple(sorted(own.items())): name for name, own in cells.items()}
    for name, own in cells.items():
        if own[axis] != values[0]:
            yield name, by_values[tuple(sorted({**own, axis: values[0]}.items()))]


def compare_along(
    axes: Mapping[str, Sequence[str]], places: Mapping[str, Mapping[str, str]], runs: Mapping[str, RunDirectory]
) -> Iterator[Row]:
    """The rows of `ALONG_AXES` of runs whose values on the axes are `places`; settings of tests are the first one's."""
    seeds = {name: _by_seed(run) for name, run in runs.items()}
    config = next(iter(runs.values())).config()
    bootstrap = Bootstrap(config.measures.resamples, config.measures.noise_seed)
    keys = [(metric, condition) for metric in config.catalogue.values() for condition in metric.conditions]
    everyone = sorted({seed for of_cell in seeds.values() for values in of_cell.values() for seed in values})
    for axis, values in axes.items():
        pairs = list(pairs_along(axis, values, places))
        for metric, condition in keys if pairs else ():
            key = (metric.name, condition)
            differences = np.array([_differences(seeds[a], seeds[b], key, everyone) for a, b in pairs])
            found = compare_all(list(differences), bootstrap)
            tested = differences if can_change_along(axis, metric, condition) else np.full_like(differences, np.nan)
            decisions = decide(tested, config.measures.margin_of(metric), bootstrap.seed)
            corrected = holm(np.array([comparison.p for comparison in found])).tolist()
            for (cell, reference), comparison, p, decision in zip(pairs, found, corrected, decisions, strict=True):
                place = {"axis": axis, "cell": cell, "reference": reference, "metric": key[0], "condition": condition}
                yield {**place, **asdict(comparison), "p_holm": p, **asdict(decision)}


def can_change_along(axis: str, metric: Metric, condition: str) -> bool:
    """Whether a setting changes anything of what a metric is computed from: fine-tuning's, no other condition."""
    arms = (metric.arms or condition).split("-")
    return "ft" in arms if axis.startswith("finetune.") else axis != "demonstrations" or arms != ["zsl"]


def _by_seed(run: RunDirectory) -> dict[tuple[str, str], dict[int, float]]:
    """The overall value of every seed, by (metric, condition)."""
    overall = (pc.field("layer") == OVERALL) & (pc.field("control") == NO_CONTROL)
    table = run.measured(["metric", "condition", "shots", "seed", "value"], overall)
    table = table.filter(pc.field("shots") == run.config().demonstrations)
    found: dict[tuple[str, str], dict[int, float]] = {}
    for row in table.to_pylist():
        found.setdefault((row["metric"], row["condition"]), {})[row["seed"]] = row["value"]
    return found


def _differences(first: dict, second: dict, key: tuple[str, str], seeds: list[int]) -> np.ndarray:
    """One value minus the other for each of the seeds; NaN where a cell did not measure it."""
    own, reference = first.get(key, {}), second.get(key, {})
    return np.array([own.get(seed, np.nan) - reference.get(seed, np.nan) for seed in seeds], dtype=float)
