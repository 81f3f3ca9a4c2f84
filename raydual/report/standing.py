"""Whether a similarity stands above its nulls and controls (docs/science.md, section 6)."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from raydual.catalogue.entries import Metric
from raydual.report.data import Row, RunData
from raydual.statistics.family import decide
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
    """A verdict, and the number of seeds that it rests on."""

    verdict: str
    n: int


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

    def having(self, verdict: str) -> list[str]:
        """The names of what has a verdict."""
        return [name for name, judged in self.verdicts.items() if judged.verdict == verdict]


def standings(data: RunData) -> list[Standing]:
    """Every similarity beside its nulls, baselines and the controls without a learnt link."""
    found = []
    for metric, row in data.headline():
        if metric.similarity and row["condition"] == "icl-ft" and row["n"] > 1:
            verdicts = dict(_verdicts(data, metric, row))
            found += [Standing(metric, row, verdicts)] if verdicts else []
    return found


def _verdicts(data: RunData, metric: Metric, row: Row) -> Iterator[tuple[str, Judged]]:
    for name, condition in metric.baselines:
        compared = data.against(metric.name, name, condition)
        if compared and compared["n"]:
            label = data.catalogue[name].label.split(", ")[-1].capitalize() if name != metric.name else "Zero-shot"
            yield label, Judged(verdict(compared), compared["n"])
    if not metric.baselines:
        yield "Zero", Judged(verdict(_against_zero(data, metric, row)), row["n"])
    for control in data.controls:
        compared = data.control_comparisons.get((metric.name, "icl-ft", control.name))
        if control.is_null and compared and compared["n"]:
            yield control.label, Judged(verdict(compared, control.draws_models), compared["n"])


def _against_zero(data: RunData, metric: Metric, row: Row) -> Row:
    """Unrelated updates give 0: the metric is its own difference from its null."""
    values, measures = data.seed_values[metric.name, row["condition"]], data.config.measures
    return {**row, **asdict(decide(values[None], measures.margin_of(metric), measures.noise_seed)[0])}
