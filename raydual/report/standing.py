"""Whether a similarity stands above its nulls and controls (docs/science.md, section 6)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from raydual.catalogue.entries import Metric
from raydual.report.data import Row, RunData

SIGNIFICANT = 0.05
ABOVE, BELOW, ALIKE = "above", "below", "not distinguishable"
SIGNS = {ABOVE: "▲", BELOW: "▼", ALIKE: "≈"}
_OUTSIDE = 0.975


def verdict(compared: Row, draws_models: bool = False) -> str:
    """Whether a metric is above or below what it is compared with, or not distinguishable from it.

    It is distinguishable if the interval of the paired difference excludes 0 and the corrected signed-rank test agrees.
    Where every seed of a control `draws_models`, the measured model must also lie outside 95 % of them: a single model
    always differs a little from the mean of others, and seeds without end would make that significant.
    """
    if compared["n"] < 2 or math.isnan(compared["p_holm"]) or compared["p_holm"] >= SIGNIFICANT:
        return ALIKE
    above, below = compared["ci_low"] > 0, compared["ci_high"] < 0
    if draws_models:
        above, below = above and compared["above"] >= _OUTSIDE, below and compared["above"] <= 1 - _OUTSIDE
    return ABOVE if above else BELOW if below else ALIKE


@dataclass(frozen=True)
class Standing:
    """A similarity, its overall summary row, and a verdict for everything that it must stand above, by name."""

    metric: Metric
    row: Row
    verdicts: dict[str, str]

    @property
    def above_all(self) -> bool:
        """Whether it is above all of it."""
        return all(found == ABOVE for found in self.verdicts.values())


def standings(data: RunData) -> list[Standing]:
    """Every similarity beside its nulls, baselines and the controls without a learnt link."""
    found = []
    for metric, row in data.headline():
        if metric.similarity and row["condition"] == "icl-ft" and row["n"] > 1:
            verdicts = dict(_verdicts(data, metric, row))
            found += [Standing(metric, row, verdicts)] if verdicts else []
    return found


def _verdicts(data: RunData, metric: Metric, row: Row) -> Iterator[tuple[str, str]]:
    for name, condition in metric.baselines:
        compared = data.against(metric.name, name, condition)
        if compared and compared["n"]:
            label = data.catalogue[name].label.split(", ")[-1].capitalize() if name != metric.name else "Zero-shot"
            yield label, verdict(compared)
    if not metric.baselines and not math.isnan(row["ci_low"]):
        # Unrelated updates give 0: the metric is its own difference from its null.
        yield "Zero", ABOVE if row["ci_low"] > 0 else BELOW if row["ci_high"] < 0 else ALIKE
    for control in data.controls:
        compared = data.control_comparisons.get((metric.name, "icl-ft", control.name))
        if control.is_null and compared and compared["n"]:
            yield control.label, verdict(compared, control.draws_models)
