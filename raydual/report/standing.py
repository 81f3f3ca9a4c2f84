"""Whether a similarity stands above its nulls and controls (docs/science.md, section 6)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from raydual.catalogue.entries import CONDITIONS, OVERALL, Metric
from raydual.catalogue.metric import ZERO
from raydual.report.data import Row, RunData
from raydual.statistics.flips import least_p

SIGNIFICANT = 0.05
ABOVE, BELOW, EQUIVALENT, UNDECIDED = "above", "below", "equivalent", "undecided"
UNTELLABLE, UNTESTED = "cannot be told", "equal by construction"
SIGNS = {ABOVE: "▲", BELOW: "▼", EQUIVALENT: "≈", UNDECIDED: "?", UNTELLABLE: "∅", UNTESTED: "="}
_OUTSIDE = 0.975


def verdict(compared: Row, draws_models: bool = False) -> str:
    """What can be said of a metric beside what it is compared with: one of `SIGNS`.

    It is above or below if the interval of the paired difference excludes 0 and the corrected sign-flip test agrees;
    else equivalent if the difference is shown to be within the margin; else undecided. Where no differences of so few
    seeds could have passed the sign-flip test, it cannot be told. A difference may be there and within the margin too
    (`is_within_margin`).

    Where every seed of a control `draws_models`, the measured model must also lie outside 95 % of them: a single model
    always differs a little from the mean of others, and seeds without end would make that significant.
    """
    if math.isnan(compared["p_max_t"]):
        return UNTESTED if compared["n"] else UNTELLABLE
    above, below = compared["ci_low"] > 0, compared["ci_high"] < 0
    if draws_models:
        above, below = above and compared["above"] >= _OUTSIDE, below and compared["above"] <= 1 - _OUTSIDE
    if compared["p_max_t"] < SIGNIFICANT and (above or below):
        return ABOVE if above else BELOW
    if is_within_margin(compared):
        return EQUIVALENT
    return UNTELLABLE if least_p(compared["n"]) >= SIGNIFICANT else UNDECIDED


def is_within_margin(compared: Row) -> bool:
    """Whether the difference is shown to be smaller than the margin of the sweep."""
    return bool(compared["p_equivalent"] < SIGNIFICANT)


@dataclass(frozen=True)
class Judged:
    """A verdict, the number of seeds that it rests on, and the layers in which it is above.

    `than` says in a sentence what is compared with; `is_control`: a control rather than a null or baseline.
    """

    verdict: str
    n: int
    layers: frozenset[int]
    than: str
    is_control: bool


@dataclass(frozen=True)
class Standing:
    """A similarity, its overall summary row, and a verdict for everything that it must stand above, by name."""

    metric: Metric
    row: Row
    verdicts: dict[str, Judged]

    @property
    def above_all(self) -> bool:
        """Whether it is above all of it."""
        return all(judged.verdict == ABOVE for judged in self.verdicts.values())

    @property
    def is_refuted(self) -> bool:
        """Whether something is shown not to be below it: being above all of it is ruled out, not merely unproven."""
        return any(judged.verdict in (BELOW, EQUIVALENT) for judged in self.verdicts.values())

    @property
    def layers(self) -> list[int]:
        """The layers in which it is above all of it, each corrected over the layers."""
        found = [judged.layers for judged in self.verdicts.values()]
        return sorted(frozenset.intersection(*found)) if self.metric.per_layer else []


def standings(data: RunData) -> list[Standing]:
    """Every similarity beside its nulls, baselines and the controls without a learnt link."""
    found = []
    for metric, row in data.headline():
        if metric.similarity and row["condition"] == "icl-ft" and row["n"] > 1:
            verdicts = dict(_verdicts(data, metric))
            found += [Standing(metric, row, verdicts)] if verdicts else []
    return found


def _verdicts(data: RunData, metric: Metric) -> Iterator[tuple[str, Judged]]:
    baselines = [*metric.baselines, *([(ZERO, "icl-ft")] if metric.above_zero else [])]
    for name, condition in baselines:
        compared = data.comparisons.get((metric.name, "icl-ft", name, condition), {})
        if _is_made(compared):
            label, than = _of_baseline(data, metric, name, condition)
            yield label, _judged(compared, than)
    for control in data.controls:
        compared = data.control_comparisons.get((metric.name, "icl-ft", control.name), {})
        if control.is_null and _is_made(compared):
            yield control.label, _judged(compared, control.than, control.draws_models, is_control=True)


def _of_baseline(data: RunData, metric: Metric, name: str, condition: str) -> tuple[str, str]:
    """A baseline's heading, and what is said of it in a sentence."""
    if name == ZERO:
        return "Zero", "unrelated updates (0)"
    if name == metric.name:
        return CONDITIONS[condition.rsplit("-", 1)[-1]].capitalize(), "before fine-tuning"
    label = data.catalogue[name].label.split(", ")[-1].capitalize()
    return label, f"the {label[0].lower()}{label[1:]}"


def _is_made(compared: dict[int, Row]) -> bool:
    return OVERALL in compared and compared[OVERALL]["n"] > 0


def _judged(compared: dict[int, Row], than: str, draws_models: bool = False, is_control: bool = False) -> Judged:
    above = [layer for layer, row in compared.items() if layer != OVERALL and verdict(row, draws_models) == ABOVE]
    overall = compared[OVERALL]
    return Judged(verdict(overall, draws_models), overall["n"], frozenset(above), than, is_control)
