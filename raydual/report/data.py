"""What the report is made of, read from a run directory."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc

from raydual.catalogue.entries import FAILED, OVERALL, Catalogue, Key, Metric
from raydual.run_directory.directory import NO_CONTROL, RunDirectory
from raydual.settings.controls import Control, control_named, report_order
from raydual.settings.schema import SweepConfig
from raydual.statistics.unchanged import METRICS, warnings_of

Row = dict[str, Any]


@dataclass(frozen=True)
class RunData:
    """A run's settings, distributions and values, as the report needs them: after `shots` demonstrations, or all."""

    run: RunDirectory
    given_manifest: Row | None = None
    shots: int | None = None

    @cached_property
    def config(self) -> SweepConfig:
        """The sweep as run."""
        return self.run.config()

    @cached_property
    def catalogue(self) -> Catalogue:
        """Every metric that the run measures."""
        return self.config.catalogue

    @cached_property
    def manifest(self) -> Row:
        """The manifest; empty while the run is not complete."""
        return self.given_manifest or self.run.manifest() or {}

    def after(self, shots: int) -> "RunData":
        """The same after fewer demonstrations."""
        return self if shots == self.config.demonstrations else replace(self, shots=shots)

    @cached_property
    def _measured_here(self) -> pc.Expression:
        """The rows of this number of demonstrations."""
        return pc.field("shots") == (self.shots or self.config.demonstrations)

    @cached_property
    def _summary_rows(self) -> list[Row]:
        return self.run.summary().filter(self._measured_here).to_pylist()

    @cached_property
    def summary(self) -> dict[tuple[str, str, int], Row]:
        """The summary's rows without a control, by (metric, condition, layer)."""
        return {(r["metric"], r["condition"], r["layer"]): r for r in self._summary_rows if r["control"] == NO_CONTROL}

    @cached_property
    def controls(self) -> list[Control]:
        """The controls that were run, in the order of reports."""
        names = {row["control"] for row in self._summary_rows} - {NO_CONTROL}
        return [control_named(name) for name in sorted(names, key=report_order)]

    @cached_property
    def control_values(self) -> dict[tuple[str, str, str], Row]:
        """The overall summary rows of the controls, by (metric, condition, control)."""
        overall = [row for row in self._summary_rows if row["layer"] == OVERALL and row["control"] != NO_CONTROL]
        return {(row["metric"], row["condition"], row["control"]): row for row in overall}

    @cached_property
    def control_layers(self) -> dict[tuple[str, str, str], list[Row]]:
        """The summary rows of the controls' layers, in order, by (metric, condition, control)."""
        found: dict[tuple[str, str, str], list[Row]] = {}
        for row in self._summary_rows:
            if row["layer"] >= 0 and row["control"] != NO_CONTROL:
                found.setdefault((row["metric"], row["condition"], row["control"]), []).append(row)
        return {key: sorted(rows, key=lambda row: row["layer"]) for key, rows in found.items()}

    @cached_property
    def _by_seed(self) -> dict[Key, tuple[np.ndarray, np.ndarray]]:
        overall = (pc.field("layer") == OVERALL) & (pc.field("control") == NO_CONTROL)
        columns = ["seed", "shots", "metric", "condition", "value"]
        table = self.run.measured(columns, overall).filter(self._measured_here).sort_by("seed")
        # One thread keeps the order of seeds; Python objects for each value would take gigabytes.
        groups = table.group_by(["metric", "condition"], use_threads=False).aggregate(
            [("value", "list"), ("seed", "list")]
        )
        names = ("metric", "condition", "value_list", "seed_list")
        return {
            (metric.as_py(), condition.as_py()): (values.values.to_numpy(), seeds.values.to_numpy())
            for metric, condition, values, seeds in zip(*(groups[name] for name in names), strict=True)
        }

    @cached_property
    def seed_values(self) -> dict[Key, np.ndarray]:
        """The overall value of every seed, by (metric, condition)."""
        return {key: values for key, (values, _) in self._by_seed.items()}

    @cached_property
    def seeds_of(self) -> dict[Key, np.ndarray]:
        """The seeds that `seed_values` are of, by (metric, condition)."""
        return {key: seeds for key, (_, seeds) in self._by_seed.items()}

    @cached_property
    def undefined(self) -> dict[tuple[str, str, str, str], int]:
        """How many seeds have no overall value, by (metric, condition, control, reason)."""
        overall = (pc.field("layer") == OVERALL) & pc.is_nan(pc.field("value")) & (pc.field("metric") != FAILED)
        columns = ["control", "shots", "metric", "condition", "reason"]
        table = self.run.measured(columns, overall).filter(self._measured_here)
        rows = table.group_by(["metric", "condition", "control", "reason"]).aggregate([([], "count_all")]).to_pylist()
        names = ("metric", "condition", "control", "reason")
        return {tuple(str(row[name]) for name in names): row["count_all"] for row in sorted(rows, key=str)}  # type: ignore[misc]

    @cached_property
    def warnings(self) -> list[str]:
        """What makes the run's numbers say nothing, in sentences: fine-tuning or a context that changed nothing."""
        wanted = (pc.field("layer") == OVERALL) & (pc.field("control") == NO_CONTROL) & pc.field("metric").isin(METRICS)
        rows = self.run.measured(["seed", "metric", "condition", "layer", "value", "examples"], wanted).to_pylist()
        return list(warnings_of(rows, self.config.dtype, len({row["seed"] for row in rows})))

    @cached_property
    def _comparison_rows(self) -> list[Row]:
        measured = pc.field("control") == NO_CONTROL
        return self.run.comparisons().filter(measured & self._measured_here).to_pylist()

    @cached_property
    def comparisons(self) -> dict[tuple[str, str, str, str], dict[int, Row]]:
        """The comparisons with baselines, by (metric, condition, baseline, its condition) and layer."""
        found: dict[tuple[str, str, str, str], dict[int, Row]] = {}
        for row in self._comparison_rows:
            if row["baseline_control"] == NO_CONTROL:
                key = row["metric"], row["condition"], row["baseline"], row["baseline_condition"]
                found.setdefault(key, {})[row["layer"]] = row
        return found

    @cached_property
    def control_comparisons(self) -> dict[tuple[str, str, str], dict[int, Row]]:
        """The comparisons with the same metric in a control, by (metric, condition, control) and layer."""
        found: dict[tuple[str, str, str], dict[int, Row]] = {}
        for row in self._comparison_rows:
            if row["baseline_control"] != NO_CONTROL:
                key = row["metric"], row["condition"], row["baseline_control"]
                found.setdefault(key, {})[row["layer"]] = row
        return found

    def against(self, metric: str, baseline: str, condition: str, own: str = "icl-ft") -> Row | None:
        """The overall comparison of a metric, under its `own` condition, with a baseline; None if it was not made."""
        return self.comparisons.get((metric, own, baseline, condition), {}).get(OVERALL)

    def against_control(self, metric: str, condition: str, control: str) -> Row | None:
        """The overall comparison of a metric with itself in a control, or None if it was not made."""
        return self.control_comparisons.get((metric, condition, control), {}).get(OVERALL)

    def overall(self, metric: str, condition: str) -> Row | None:
        """The overall summary row of a metric, or None if it was not measured."""
        return self.summary.get((metric, condition, OVERALL))

    def layers(self, metric: str, condition: str) -> list[Row]:
        """The summary rows of a metric's layers, in order."""
        rows = [r for (m, c, layer), r in self.summary.items() if (m, c) == (metric, condition) and layer >= 0]
        return sorted(rows, key=lambda row: row["layer"])

    def headline(self) -> list[tuple[Metric, Row]]:
        """The metrics of the headline table, with their overall rows."""
        return [
            (metric, row)
            for metric in self.catalogue.values()
            if metric.headline
            for condition in metric.conditions
            if (row := self.overall(metric.name, condition))
        ]
