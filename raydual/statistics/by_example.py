"""What the values by example say beyond seeds: the columns `BOTH` of a run's tables (docs/science.md, section 6)."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int, Shaped

from raydual.catalogue.entries import OVERALL, Catalogue
from raydual.catalogue.metric import ZERO, of_label
from raydual.run_directory.measurements import Unit
from raydual.statistics.crossed import Cells, Crossed, CrossedSums, of_means, of_ratios
from raydual.statistics.proportions import Both, of_difference, of_mean, of_share

Row = dict[str, Any]
Term = tuple[str, str, str]
"""A metric, its condition and a control."""
Contrast = tuple[Term, Term | None]
"""A metric by itself (None), or minus another."""

_SEEDS_AT_ONCE = 64
_PLACES = ("seed", "control", "example")


@dataclass(frozen=True)
class ExampleFile:
    """A file of values by example: its units, and what reads those of some columns that it has."""

    units: Sequence[Unit]
    read: Callable[[Sequence[str]], pa.Table]


def add_examples(
    files: Sequence[ExampleFile], catalogue: Catalogue, summary: Sequence[Row], compared: Sequence[Row]
) -> None:
    """Fill in the columns `BOTH` of the overall rows of both tables, where all their seeds have values by example."""
    wanted: dict[Contrast, Row] = {}
    for row in summary:
        if row["layer"] == OVERALL:
            wanted[(row["metric"], row["condition"], row["control"]), None] = row
    for row in compared:
        if row["layer"] == OVERALL and not math.isnan(row["p_max_t"]):
            base = row["baseline"], row["baseline_condition"], row["baseline_control"]
            wanted[(row["metric"], row["condition"], row["control"]), base] = row
    for contrast, found in sums_of(files, catalogue, list(wanted)).items():
        row = wanted[contrast]
        if found.seeds == row["n"] and not math.isnan(found.variance):
            row |= asdict(_both(row["metric"], catalogue, found, contrast[1] is not None, row))


def _both(metric: str, catalogue: Catalogue, found: Crossed, compared: bool, row: Row) -> Both:
    if metric in SHARES:
        whole = float(catalogue[metric].bounds[1] or 1)
        return of_difference(found, whole) if compared else of_share(found, whole)
    # Layers without a value for an example weigh otherwise in a mean that is first over examples, then over layers.
    both = of_mean(replace(found, mean=row["difference"] if compared else row["mean"]))
    return both if compared else _within(both, catalogue[metric].bounds)


def _within(both: Both, bounds: tuple[float | None, float | None]) -> Both:
    """The interval cut off where the metric ends."""
    low, high = (math.inf * side if end is None else end for side, end in zip((-1, 1), bounds, strict=True))
    if both.ci_low_both is None or both.ci_high_both is None:
        return both
    return replace(both, ci_low_both=max(low, both.ci_low_both), ci_high_both=min(high, both.ci_high_both))


def sums_of(
    files: Sequence[ExampleFile], catalogue: Catalogue, contrasts: Sequence[Contrast]
) -> dict[Contrast, Crossed]:
    """What every contrast comes to that the files have the columns for, some seeds at a time."""
    sums: dict[Contrast, CrossedSums] = {}
    for block in _blocks(files, [term for pair in contrasts for term in pair if term]):
        cells: dict[Term, Cells | None] = {}

        def of(term: Term, block: "_Block" = block, cells: dict[Term, Cells | None] = cells) -> Cells | None:
            if term not in cells:
                cells[term] = _cells(block.of.get(term[2]), catalogue, term)
            return cells[term]

        for contrast in contrasts:
            own, base = contrast
            found = of(own)
            if base is not None and base[0] != ZERO:
                other = of(base)
                found = found.minus(other) if found and other else None
            if found is not None:
                sums.setdefault(contrast, CrossedSums()).add(found)
    return {contrast: found.crossed() for contrast, found in sums.items()}


# Columns, of some seeds and all controls


@dataclass
class _Block:
    """Some seeds' columns, `[seeds, examples]` by control and name; a unit that is not there is NaN, or False."""

    of: dict[str, dict[str, Shaped[np.ndarray, "seeds examples"]]] = field(default_factory=dict)


def _blocks(files: Sequence[ExampleFile], terms: Sequence[Term]) -> Iterator[_Block]:
    """All seeds, some at a time; a file is held while it has seeds to come."""
    seeds = np.unique([seed for file in files for seed, _ in file.units])
    names = _columns(terms)
    coming = deque(sorted((file for file in files if file.units), key=_first))
    held: list[tuple[int, pa.Table]] = []
    examples = 0
    for start in range(0, len(seeds), _SEEDS_AT_ONCE):
        here = seeds[start : start + _SEEDS_AT_ONCE]
        while coming and _first(coming[0]) <= here[-1]:
            file = coming.popleft()
            table = file.read(names)
            examples = examples or int(table["example"].to_numpy().max()) + 1
            held.append((max(seed for seed, _ in file.units), table))
        block = _Block()
        for _, table in held:
            _place(block, table, here, examples)
        yield block
        held = [(last, table) for last, table in held if last > here[-1]]


def _first(file: ExampleFile) -> int:
    return min(seed for seed, _ in file.units)


def _columns(terms: Sequence[Term]) -> list[str]:
    """What to read: places, gold labels and predictions, and a column of its own for each metric."""
    found = dict.fromkeys((*_PLACES, "gold"))
    for metric, condition, _ in terms:
        for arm in condition.split(", ")[0].split("-"):
            found |= dict.fromkeys(f"{name}.{arm}" for name in ("prediction", "right", "greedy_right"))
        found[f"{metric}.{condition}"] = None
    if any(metric in SHARES for metric, _, _ in terms):
        found |= dict.fromkeys(("prediction.zsl", "right.zsl"))
    return list(found)


def _place(block: _Block, table: pa.Table, seeds: Int[np.ndarray, "seeds"], examples: int) -> None:
    """Put a table's rows of some seeds where they belong in a block."""
    of_seed, example = table["seed"].to_numpy(), table["example"].to_numpy()
    at = np.minimum(np.searchsorted(seeds, of_seed), len(seeds) - 1)
    here = seeds[at] == of_seed
    controls = table["control"].combine_chunks().dictionary_encode()
    for code, control in enumerate(controls.dictionary.to_pylist()):
        rows = np.flatnonzero(here & (controls.indices.to_numpy() == code))
        if not len(rows):
            continue
        columns = block.of.setdefault(control, {})
        for name in table.column_names:
            if name in _PLACES:
                continue
            values = table[name].to_numpy()[rows]
            if name not in columns:
                empty = False if values.dtype == bool else -1 if values.dtype.kind == "i" else np.nan
                columns[name] = np.full((len(seeds), examples), empty, values.dtype)
            columns[name][at[rows], example[rows]] = values


# A metric's cells


def _cells(columns: Mapping[str, np.ndarray] | None, catalogue: Catalogue, term: Term) -> Cells | None:
    """The cells of a metric; None where its columns are not there."""
    metric, condition, _ = term
    if columns is None or metric not in catalogue:
        return None
    try:
        if metric in SHARES:
            above, below = SHARES[metric](Answers(columns), condition)
            return of_ratios(float(catalogue[metric].bounds[1] or 1) * above, below)
        return kappa_cells(Answers(columns)) if metric == "kappa" else of_means(columns[f"{metric}.{condition}"])
    except KeyError:
        return None


@dataclass(frozen=True)
class Answers:
    """What some seeds predicted, `[seeds, examples]`; nothing where a unit is missing."""

    columns: Mapping[str, np.ndarray]

    @property
    def gold(self) -> Int[np.ndarray, "seeds examples"]:
        """Gold label ids; -1: none."""
        return self.columns["gold"]

    @property
    def there(self) -> Bool[np.ndarray, "seeds examples"]:
        """Whether there is an answer."""
        return self.gold >= 0

    def right(self, arm: str, kind: str = "right") -> Bool[np.ndarray, "seeds examples"]:
        """Whether the label word, or the greedy token, is the right one."""
        return self.columns[f"{kind}.{arm}"]

    def label(self, arm: str) -> Int[np.ndarray, "seeds examples"]:
        """Predicted label ids."""
        return self.columns[f"prediction.{arm}"]

    @property
    def alike(self) -> Bool[np.ndarray, "seeds examples"]:
        """Whether context and fine-tuning predict the same."""
        return self.there & (self.label("icl") == self.label("ft"))


Ratio = tuple[Bool[np.ndarray, "seeds examples"], Bool[np.ndarray, "seeds examples"]]
"""Which examples are counted in a share, and which of these are so (first)."""


def _recall(found: Answers, of: str, other: str) -> Ratio:
    corrected = found.there & ~found.right("zsl") & found.right(of)
    return corrected & found.right(other), corrected


def _changes(found: Answers) -> Ratio:
    by_context, by_tuning = (found.label(arm) != found.label("zsl") for arm in ("icl", "ft"))
    return by_context & by_tuning, by_context | by_tuning


def _agreement(found: Answers, condition: str) -> Ratio:
    labels = range(int(found.gold.max(initial=0)) + 1)
    chosen = next((found.gold == label for label in labels if of_label("icl-ft", label) == condition), found.there)
    return found.alike & chosen, chosen


SHARES: dict[str, Callable[[Answers, str], Ratio]] = {
    "accuracy": lambda found, condition: (found.right(condition), found.there),
    "greedy_accuracy": lambda found, condition: (found.right(condition, "greedy_right"), found.there),
    "rec2ftp": lambda found, _: _recall(found, "ft", "icl"),
    "reverse_recall": lambda found, _: _recall(found, "icl", "ft"),
    "jaccard": lambda found, _: _changes(found),
    "agreement": _agreement,
}
"""The metrics that are shares of examples, or ratios of their numbers, and what is counted."""


def kappa_cells(found: Answers) -> Cells:
    """The cells of Cohen's κ, of which an example moves agreement and chance (delta method)."""
    number = found.there.sum(axis=1)
    of = np.where(number > 0, number, np.nan)[:, None]
    labels = range(int(max(found.label(arm).max(initial=0) for arm in ("icl", "ft"))) + 1)
    observed = found.alike.sum(axis=1, keepdims=True) / of
    chance, by_example = np.zeros_like(observed), np.zeros(found.there.shape)
    for label in labels:
        is_icl, is_ft = (found.there & (found.label(arm) == label) for arm in ("icl", "ft"))
        share_icl, share_ft = (one.sum(axis=1, keepdims=True) / of for one in (is_icl, is_ft))
        chance += share_icl * share_ft
        by_example += is_icl * share_ft + is_ft * share_icl
    left = np.where(chance < 1, 1 - chance, np.nan)
    kappa: Float[np.ndarray, "seeds 1"] = (observed - chance) / left
    moves = ((found.alike - observed) - (1 - kappa) * (by_example - 2 * chance)) / left / of
    defined = found.there & ~np.isnan(kappa)
    return Cells(kappa[:, 0], np.where(defined, moves, 0.0), np.where(defined, 1 / of, 0.0))
