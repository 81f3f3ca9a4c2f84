"""Metrics across seeds: distributions, and differences paired over seeds (docs/science.md, section 6)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Float

from raydual.statistics.bootstrap import Bootstrap

_MOST_PERMUTED = 13
_RANKED_ELEMENTS = 500_000


@dataclass(frozen=True)
class Distribution:
    """A metric across seeds, in the metric's own unit.

    `n` values and `undefined` NaNs. `sd` has n - 1 in its denominator. `ci_low` and `ci_high` are the 95 % BCa
    bootstrap interval of the mean. Whatever cannot be told from so few values is NaN: all of them with no value,
    `sd` and the interval with one. Where all values are equal the interval is that value.
    """

    n: int
    undefined: int
    mean: float
    sd: float
    min: float
    q25: float
    median: float
    q75: float
    max: float
    ci_low: float
    ci_high: float


def describe(values: Float[np.ndarray, "seeds"], *, resamples: int, seed: int | list[int]) -> Distribution:
    """Describe the values of all seeds; NaN values are left out and counted, and their order does not matter."""
    return describe_all([values], Bootstrap(resamples, seed))[0]


def describe_all(samples: Sequence[Float[np.ndarray, "_"]], bootstrap: Bootstrap) -> list[Distribution]:
    """Describe every one of many samples."""
    defined = [np.sort(values[~np.isnan(values)]) for values in samples]
    undefined = [len(values) - len(kept) for values, kept in zip(samples, defined, strict=True)]
    found = _by_size(defined, lambda block: _distributions(block, bootstrap))
    return [
        Distribution(len(kept), missing, *numbers.tolist())
        for kept, missing, numbers in zip(defined, undefined, found, strict=True)
    ]


def _distributions(block: Float[np.ndarray, "samples n"], bootstrap: Bootstrap) -> Float[np.ndarray, "samples 9"]:
    """The numbers of `Distribution`, after the counts, of sorted samples of one size."""
    if not block.shape[1]:
        return np.full((len(block), 9), np.nan)
    sd = block.std(axis=1, ddof=1) if block.shape[1] > 1 else np.full(len(block), np.nan)
    low, high = bootstrap.intervals(block).T
    return np.stack(
        [block.mean(axis=1), sd, block[:, 0], *np.quantile(block, [0.25, 0.5, 0.75], axis=1), block[:, -1], low, high],
        axis=1,
    )


@dataclass(frozen=True)
class Comparison:
    """A metric minus its baseline, paired over seeds.

    `n` seeds have both; `difference` is their mean difference, `ci_low` and `ci_high` its 95 % BCa interval, `above`
    the share of seeds in which the metric is greater (a tie counts half), `p` that of Wilcoxon's signed-rank test
    (two-sided). NaN: the interval with fewer than two seeds, all with none.
    """

    n: int
    difference: float
    ci_low: float
    ci_high: float
    above: float
    p: float


def compare(
    values: Float[np.ndarray, "seeds"], baseline: Float[np.ndarray, "seeds"], *, resamples: int, seed: int | list[int]
) -> Comparison:
    """Compare a metric with its baseline over the seeds that have both; the two arrays are in the same order."""
    return compare_all([values - baseline], Bootstrap(resamples, seed))[0]


def compare_all(differences: Sequence[Float[np.ndarray, "_"]], bootstrap: Bootstrap) -> list[Comparison]:
    """Test every one of many sets of paired differences; NaN ones are left out."""
    defined = [np.sort(values[~np.isnan(values)]) for values in differences]
    # SciPy chooses between the exact and the approximate test for a whole block, by whether any sample has a tie.
    tied = [bool(len(np.unique(np.abs(kept))) < len(kept) or np.any(kept == 0)) for kept in defined]
    found = _by_size(defined, lambda block: _comparisons(block, bootstrap), tied)
    return [Comparison(len(kept), *numbers.tolist()) for kept, numbers in zip(defined, found, strict=True)]


def _comparisons(block: Float[np.ndarray, "samples n"], bootstrap: Bootstrap) -> Float[np.ndarray, "samples 5"]:
    """The numbers of `Comparison`, after the count, of differences of one size."""
    if not block.shape[1]:
        return np.full((len(block), 5), np.nan)
    above = ((block > 0) + 0.5 * (block == 0)).mean(axis=1)
    p = np.ones(len(block))
    moved = np.any(block != 0, axis=1)
    if moved.any():
        p[moved] = _signed_rank(block[moved])
    return np.stack([block.mean(axis=1), *bootstrap.intervals(block).T, above, p], axis=1)


def _signed_rank(block: Float[np.ndarray, "samples n"]) -> Float[np.ndarray, "samples"]:
    """Two-sided p-values of Wilcoxon's signed-rank test, as `scipy.stats.wilcoxon` gives them.

    Few differences with ties have no table; SciPy tries their signs one sample and one choice of signs at a time, which
    takes minutes for the samples of a run. Here all signs are tried on all samples at once.
    """
    n, sizes = block.shape[1], np.abs(block)
    tied = len(np.unique(sizes[0])) < n or np.any(sizes[0] == 0)
    if n > _MOST_PERMUTED or not tied:
        rows = max(1, _RANKED_ELEMENTS // n)
        parts = [block[start : start + rows] for start in range(0, len(block), rows)]
        return np.concatenate([scipy.stats.wilcoxon(part, axis=1).pvalue for part in parts])
    # Zeros are no evidence: without a rank, and without a part in the ranks of the others.
    ranks = scipy.stats.rankdata(np.where(sizes == 0, np.nan, sizes), axis=1, nan_policy="omit")
    ranks = np.nan_to_num(ranks)
    signs = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    sums, own = signs @ ranks.T, np.sum(ranks * (block > 0), axis=1)
    at_most, at_least = (sums <= own).mean(axis=0), (sums >= own).mean(axis=0)
    return np.asarray(np.minimum(2 * np.minimum(at_most, at_least), 1.0))


def _by_size(
    samples: Sequence[Float[np.ndarray, "_"]],
    function: Callable[[Float[np.ndarray, "samples n"]], Float[np.ndarray, "samples _"]],
    kinds: Sequence[bool] | None = None,
) -> list[Float[np.ndarray, "_"]]:
    """A function of blocks of samples of one size (and kind), applied to samples of any."""
    groups: dict[tuple[int, bool], list[int]] = {}
    for place, values in enumerate(samples):
        groups.setdefault((len(values), bool(kinds and kinds[place])), []).append(place)
    found: list[Any] = [None] * len(samples)
    for places in groups.values():
        for place, numbers in zip(places, function(np.stack([samples[p] for p in places])), strict=True):
            found[place] = numbers
    return found


def holm(p_values: Float[np.ndarray, "tests"]) -> Float[np.ndarray, "tests"]:
    """p-values corrected for their number by Holm's step-down method; NaN ones are no test and stay NaN."""
    corrected = np.full(len(p_values), np.nan)
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected
