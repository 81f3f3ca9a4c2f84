"""Two one-sided tests of whether paired differences lie within a margin (docs/science.md, section 6)."""

import numpy as np
import scipy.stats
from jaxtyping import Float

from raydual.statistics.flips import MOST_ENUMERATED, all_signs

_ROUNDING = 1e-12


def equivalence(differences: Float[np.ndarray, "tests seeds"], margin: float) -> Float[np.ndarray, "tests"]:
    """p-values of "the mean difference is at least the margin, up or down" (Schuirmann's two one-sided tests).

    NaN is a seed without a difference. By all sign flips of the distances from the margin for up to `MOST_ENUMERATED`
    seeds, by paired t-tests for more. NaN without a seed, and where the margin is NaN.
    """
    counts = np.count_nonzero(~np.isnan(differences), axis=1)
    p = np.full(len(differences), np.nan)
    if np.isnan(margin):
        return p
    for n in set(counts.tolist()) - {0}:
        tests = np.flatnonzero(counts == n)
        block = differences[tests]
        block = block[~np.isnan(block)].reshape(len(tests), n)
        one_sided = _by_flips if n <= MOST_ENUMERATED else by_t
        # Both must be rejected, so the larger p counts.
        p[tests] = np.maximum(one_sided(block + margin), one_sided(margin - block))
    return p


def _by_flips(values: Float[np.ndarray, "tests n"]) -> Float[np.ndarray, "tests"]:
    """p-values of "the mean is at most 0", among all choices of signs."""
    n = values.shape[1]
    sums, own = all_signs(n).astype(np.float64) @ values.T, values.sum(axis=1)
    slack = _ROUNDING * np.abs(values).sum(axis=1)
    return np.asarray((sums >= own - slack).mean(axis=0))


def by_t(values: Float[np.ndarray, "tests n"]) -> Float[np.ndarray, "tests"]:
    """p-values of "the mean is at most 0", by Student's t; equal values are above or not without a doubt."""
    n, mean = values.shape[1], values.mean(axis=1)
    error = values.std(axis=1, ddof=1) / np.sqrt(n)
    spread = error > _ROUNDING * np.maximum(1.0, np.abs(mean))
    t = np.divide(mean, error, out=np.zeros(len(values)), where=spread)
    return np.where(spread, scipy.stats.t.sf(t, n - 1), np.where(mean > _ROUNDING, 0.0, 1.0))
