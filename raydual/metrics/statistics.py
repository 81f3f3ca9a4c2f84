"""One metric across seeds: its distribution and a bootstrap interval of its mean (docs/science.md, section 6)."""

from dataclasses import dataclass

import numpy as np
import scipy.stats
from jaxtyping import Float

CONFIDENCE = 0.95
# Resampled values held at once; keeps 10,000 seeds within tens of megabytes.
_BATCH_ELEMENTS = 2_000_000


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
    """Describe the values of all seeds; NaN values are left out and counted.

    The bootstrap draws `resamples` times from a generator of its own, seeded with `seed`, and the values are
    sorted first: the result depends on neither their order nor on anything else that is described.
    """
    defined = np.sort(values[~np.isnan(values)])
    n, undefined = len(defined), int(np.isnan(values).sum())
    if n == 0:
        return Distribution(0, undefined, *[float("nan")] * 9)
    low, high = mean_interval(defined, resamples, seed)
    quartiles = np.quantile(defined, [0.25, 0.5, 0.75])
    return Distribution(
        n=n,
        undefined=undefined,
        mean=float(defined.mean()),
        sd=float(defined.std(ddof=1)) if n > 1 else float("nan"),
        min=float(defined[0]),
        q25=float(quartiles[0]),
        median=float(quartiles[1]),
        q75=float(quartiles[2]),
        max=float(defined[-1]),
        ci_low=low,
        ci_high=high,
    )


def mean_interval(values: Float[np.ndarray, "seeds"], resamples: int, seed: int | list[int]) -> tuple[float, float]:
    """The 95 % BCa bootstrap interval of the mean of values without NaN (`scipy.stats.bootstrap`)."""
    if len(values) < 2:
        return float("nan"), float("nan")
    # A spread that is rounding alone would make the acceleration of BCa a quotient of noise.
    if np.ptp(values) <= 1e-12 * max(1.0, np.abs(values).max()):
        return float(values.mean()), float(values.mean())
    interval = scipy.stats.bootstrap(
        (_exactly_summable(values),),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _BATCH_ELEMENTS // len(values)),
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Comparison:
    """A metric minus its baseline, paired over seeds.

    `n` seeds have both; `difference` is their mean difference, `ci_low` and `ci_high` its 95 % BCa interval, `p` that
    of Wilcoxon's signed-rank test (two-sided). NaN: the interval with fewer than two seeds, all with none.
    """

    n: int
    difference: float
    ci_low: float
    ci_high: float
    p: float


def compare(
    values: Float[np.ndarray, "seeds"], baseline: Float[np.ndarray, "seeds"], *, resamples: int, seed: int | list[int]
) -> Comparison:
    """Compare a metric with its baseline over the seeds that have both; the two arrays are in the same order."""
    differences = values - baseline
    differences = np.sort(differences[~np.isnan(differences)])
    if not len(differences):
        return Comparison(0, *[float("nan")] * 4)
    low, high = mean_interval(differences, resamples, seed)
    if np.all(differences == 0):
        return Comparison(len(differences), 0.0, low, high, 1.0)
    p = float(scipy.stats.wilcoxon(differences).pvalue)
    return Comparison(len(differences), float(differences.mean()), low, high, p)


def holm(p_values: Float[np.ndarray, "tests"]) -> Float[np.ndarray, "tests"]:
    """p-values corrected for their number by Holm's step-down method; NaN ones are no test and stay NaN."""
    corrected = np.full(len(p_values), np.nan)
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def _exactly_summable(values: Float[np.ndarray, "seeds"]) -> Float[np.ndarray, "seeds"]:
    """The values on a grid (relative step 1.5e-11) on which sums of up to 2^16 of them have no rounding.

    A resample that is a permutation of the sample has the sample's own mean. BCa counts such ties as half, and
    without rounding they are ties; else the interval of few values would hang on the last bit of each.
    """
    step = 2.0 ** (np.ceil(np.log2(np.abs(values).max())) - 36)
    return np.round(values / step) * step
