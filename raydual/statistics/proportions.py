"""Intervals of proportions that never have zero width: a sample was drawn (docs/science.md, section 6)."""

import math
from dataclasses import dataclass

import numpy as np
import scipy.stats
from jaxtyping import Float, Shaped

from raydual.statistics.crossed import TAIL, Crossed

Interval = tuple[float, float]


@dataclass(frozen=True)
class Both:
    """What is said of other seeds and other examples: the columns `BOTH` of the tables (`run_directory/schemas.py`).

    None: it is not known.
    """

    ci_low_both: float | None = None
    ci_high_both: float | None = None
    sd_seed: float | None = None
    sd_example: float | None = None
    sd_interaction: float | None = None
    examples: int | None = None


def of_mean(found: Crossed) -> Both:
    """Of a mean without natural bounds, or of a difference of such."""
    return _both(found, (found.mean - found.half_width, found.mean + found.half_width))


def of_share(found: Crossed, whole: float | int) -> Both:
    """Of a share of the examples; `whole` is 1, or 100 for percent."""
    return _both(found, of_crossed(found, whole))


def of_difference(found: Crossed, whole: float | int) -> Both:
    """Of a difference of shares: never narrower than what may hide where no example shows any difference."""
    if math.isnan(found.variance):
        return Both()
    half = max(found.half_width, whole * least_half_width(found.distinct))
    return _both(found, (max(-whole, found.mean - half), min(whole, found.mean + half)))


def _both(found: Crossed, interval: Interval) -> Both:
    if math.isnan(found.variance):
        return Both()
    return Both(*interval, found.sd_seed, found.sd_example, found.sd_interaction, found.examples)


def exact(count: float | int, of: float | int) -> Interval:
    """The 95 % interval of Clopper and Pearson for `count` of `of`, which need not be whole; NaN of none."""
    if not of > 0:
        return math.nan, math.nan
    low = float(scipy.stats.beta.ppf(TAIL, count, of - count + 1)) if count > 0 else 0.0
    high = float(scipy.stats.beta.isf(TAIL, count + 1, of - count)) if count < of else 1.0
    return low, high


def of_crossed(found: Crossed, whole: float | int = 1.0) -> Interval:
    """The interval of a proportion over other seeds and other examples; `whole` is 100 for percent."""
    return _effective(found.mean, found.variance, found.freedom, found.distinct, whole)


def of_seeds(
    values: Float[np.ndarray, "seeds"], examples: Shaped[np.ndarray, "seeds"], whole: float | int = 1.0
) -> Interval | None:
    """The same where only each seed's value is known, and of how many examples it is.

    It is the widest that the values allow: as if all seeds agreed on which examples are right.
    """
    defined = ~np.isnan(values)
    values, examples = values[defined], examples[defined]
    if len(values) < 2:
        return None
    share, of = values.mean() / whole, float(scipy.stats.hmean(examples))
    over_seeds = float((values / whole).var(ddof=1)) / len(values)
    variance = over_seeds + max(0.0, share * (1 - share)) / of
    freedom = (variance / over_seeds) ** 2 * (len(values) - 1) if over_seeds else math.inf
    return _effective(float(values.mean()), variance * whole**2, freedom, of, whole)


def least_half_width(distinct: float | int) -> float:
    """Half of the widest interval of a difference of proportions that may hide where no example shows any."""
    return float(-np.expm1(np.log(TAIL) / distinct))


def _effective(mean: float, variance: float, freedom: float, distinct: float, whole: float | int) -> Interval:
    """Clopper and Pearson's interval for the effective number of examples (Korn and Graubard 1998).

    That is how many independent ones would leave the mean with its variance, and never more than there are.
    """
    if math.isnan(variance):
        return math.nan, math.nan
    share = min(1.0, max(0.0, mean / whole))
    binomial, of = share * (1 - share) * whole**2, distinct
    if variance > 0:
        for_t = (float(scipy.stats.norm.isf(TAIL)) / float(scipy.stats.t.isf(TAIL, freedom))) ** 2
        of = min(distinct, binomial / variance * for_t) if binomial > 0 else distinct
    low, high = exact(share * of, of)
    return low * whole, high * whole
