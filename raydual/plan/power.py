"""What a sweep's seeds and examples can tell, before it is run or after (docs/science.md, section 6)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc

from raydual.catalogue.entries import CONDITIONS, OF_ZERO_SHOT, OVERALL, Metric
from raydual.catalogue.metric import ZERO
from raydual.errors import UserError
from raydual.run_directory.directory import NO_CONTROL, RunDirectory
from raydual.settings.controls import control_named, controls_of
from raydual.settings.schema import SweepConfig
from raydual.statistics.design import ALPHA, Components, Design, detectable, seeds_for
from raydual.statistics.flips import least_p
from raydual.statistics.reduce import can_change

Row = dict[str, Any]


def undecidable(config: SweepConfig) -> str | None:
    """A line of warning where no data of so few seeds could decide a comparison; None where they could."""
    seeds = config.search.seeds.keep if config.search.seeds else len(config.seeds)
    with_controls = min(seeds, config.controls.seeds or seeds) if config.controls.number else seeds
    if least_p(with_controls) < ALPHA:
        return None
    what = "comparison" if with_controls == seeds else "comparison with a control"
    few = "1 seed" if with_controls == 1 else f"{with_controls} seeds"
    setting = "seeds" if with_controls == seeds else "controls.seeds"
    least = next(n for n in range(1, 100) if least_p(n) < ALPHA)
    return (
        f"WARNING: {few} can decide nothing: the smallest p that any {what} can have is {least_p(with_controls):.3g}, "
        f"whatever is measured; it takes {least} ({setting})"
    )


@dataclass(frozen=True)
class Contrast:
    """A metric beside something: what its paired differences vary by, and how many are tested together."""

    label: str
    against: str
    parts: Components
    tests: int

    def detectable(self, seeds: int, examples: int, other_examples: bool = False) -> float:
        """The smallest difference that so many seeds and examples find four times of five; NaN: not known."""
        return detectable(self.parts, Design(seeds, examples, self.tests, other_examples))


def contrast_of(row: Row, metric: Metric, tests: int) -> Contrast:
    """That of a row of comparisons; without values by example it is known for as many examples alone."""
    name = metric.label if row["condition"] == "icl-ft" else f"{metric.label}, {CONDITIONS[row['condition']]}"
    if row["sd_seed"] is None:
        return Contrast(name, _against(row), Components(row["sd"], math.nan, 0.0), tests)
    return Contrast(
        name, _against(row), Components(row["sd_seed"], row["sd_example"], row["sd_interaction"]), tests
    )  # fmt: skip


def _against(row: Row) -> str:
    if row["baseline_control"] != NO_CONTROL:
        return control_named(row["baseline_control"]).label.lower()
    return "0" if row["baseline"] == ZERO else row["baseline"].replace("_", " ")


def is_usable(row: Row) -> bool:
    """Whether a row of comparisons is of the measurement, overall, tested, and shows how differences vary."""
    tested = row["p_max_t"] is not None and not math.isnan(row["p_max_t"])
    return row["layer"] == OVERALL and tested and row["sd"] is not None and not math.isnan(row["sd"])


def pilot_contrasts(run: RunDirectory, config: SweepConfig, seeds: int, examples: int) -> Iterator[Contrast]:
    """Of every headline metric of a run, beside what the sweep finds the hardest to tell it from.

    Raises
    ------
    UserError
        The run has no comparisons of at least two seeds, or none that say how they vary.
    """
    of_all = (pc.field("control") == NO_CONTROL) & (pc.field("shots") == run.config().demonstrations)
    rows = run.comparisons().filter(of_all).to_pylist()
    controls = [control.name for control in controls_of(config.controls) if control.name != NO_CONTROL]
    found: dict[tuple[str, str], list[Contrast]] = {}
    for row in filter(is_usable, rows):
        metric = config.catalogue.get(row["metric"])
        of_control = row["baseline_control"] != NO_CONTROL
        shown = metric and metric.headline and row["condition"] not in OF_ZERO_SHOT
        if metric and shown and (not of_control or row["baseline_control"] in controls):
            changed = [name for name in controls if can_change(metric, row["condition"], name, config)]
            contrast = contrast_of(row, metric, len(changed) if of_control else 1)
            found.setdefault((row["metric"], row["condition"]), []).append(contrast)
    if not found:
        raise UserError(
            f"{run}: its comparisons do not say how they vary; it takes two seeds, and `raydual report {run}` if an "
            "older version reduced it"
        )
    for contrasts in found.values():
        yield max(contrasts, key=lambda one: one.detectable(seeds, examples))


@dataclass(frozen=True)
class Power:
    """What a design tells of one contrast: the smallest differences that it finds, and the seeds for a wished one."""

    label: str
    against: str
    detectable: float
    detectable_both: float
    wished: float | None
    seeds_for_wished: int | None
    seeds_for_wished_both: int | None

    def line(self, digits: int = 3) -> str:
        """For a person."""
        if math.isinf(self.detectable):
            text = "no difference, however large"
        else:
            both = (
                ""
                if math.isnan(self.detectable_both)
                else f" ({self.detectable_both:.{digits}f} of other examples too)"
            )
            text = f"{self.detectable:.{digits}f}{both}"
        if self.wished is not None:
            text += f"; {_seeds(self.seeds_for_wished)} for {self.wished:g}"
            if not math.isnan(self.detectable_both):
                text += f" ({_seeds(self.seeds_for_wished_both)} of other examples too)"
        return f"  {self.label} against {self.against}: {text}"

    def as_json(self) -> Row:
        """All of it by name."""
        return asdict(self)


def _seeds(number: int | None) -> str:
    return "no number of seeds" if number is None else f"{number} seeds"


def power(contrast: Contrast, seeds: int, examples: int, wished: float | None = None) -> Power:
    """What so many seeds and examples tell of a contrast."""
    other = not math.isnan(contrast.parts.sd_example)

    def needed(other_examples: bool) -> int | None:
        if wished is None or (other_examples and not other):
            return None
        return seeds_for(contrast.parts, wished, Design(seeds, examples, contrast.tests, other_examples))

    return Power(
        contrast.label,
        contrast.against,
        contrast.detectable(seeds, examples),
        contrast.detectable(seeds, examples, other_examples=True) if other else math.nan,
        wished,
        needed(False),
        needed(True),
    )


def power_lines(found: Sequence[Power], seeds: int, examples: int) -> Iterator[str]:
    """What `raydual plan` prints."""
    yield (
        f"smallest difference that {seeds} seeds and {examples} examples find four times of five (p < {ALPHA:g}, "
        "corrected over the controls):"
    )
    for one in found:
        yield one.line()
