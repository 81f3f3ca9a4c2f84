"""Sign-flip tests of paired differences, corrected by the largest statistic of a family (docs/science.md, section 6).

Where there is no difference, either sign of a seed's differences is as likely as the other. So a seed's signs are
flipped, in all comparisons of the family together, which keeps whatever makes the comparisons depend on one another.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int8

MOST_ENUMERATED = 12
"""Up to so many seeds every choice of signs is tried; with more some are drawn."""

_DRAWN = 1999
_MOST_FLIPPED = 200
_BLOCK_ELEMENTS = 500_000
_ROUNDING = 1e-9


def least_p(n: int) -> float:
    """The smallest p-value that the differences of n seeds can have, whatever they are and however many are tested."""
    return min(1.0, 2.0 ** (1 - n)) if n <= MOST_ENUMERATED else 1 / (_DRAWN + 1)


def max_t(differences: Float[np.ndarray, "tests seeds"], seed: int | list[int]) -> Float[np.ndarray, "tests"]:
    """Two-sided p-values of "no difference", corrected for the family by Westfall and Young's step-down max-T.

    NaN is a seed without a difference; a test without any is none, and its p is NaN. Exact for up to `MOST_ENUMERATED`
    seeds; for more, signs are drawn from a generator seeded with `seed`, and for more than 200 the sums of flipped
    differences are drawn from the normal distribution of the same covariance.
    """
    defined = ~np.isnan(differences)
    p = np.full(len(differences), np.nan)
    tested = np.flatnonzero(defined.any(axis=1))
    if not len(tested):
        return p
    values = np.where(defined, differences, 0.0)[np.ix_(tested, defined.any(axis=0))]
    # Scaled so that, flipped, each sum has variance 1, whatever the number of its seeds.
    sizes = np.sqrt((values**2).sum(axis=1, keepdims=True))
    scaled = np.divide(values, sizes, out=np.zeros_like(values), where=sizes > 0)
    own = np.abs(scaled.sum(axis=1))
    # From the smallest statistic to the largest, each is held against the largest of those up to it.
    order = np.argsort(own)
    drawn, reached = 0, np.zeros(len(order))
    for flipped in _flipped(scaled[order], seed):
        largest = np.maximum.accumulate(np.abs(flipped), axis=1)
        reached += (largest >= own[order] * (1 - _ROUNDING)).sum(axis=0)
        drawn += len(flipped)
    exact = values.shape[1] <= MOST_ENUMERATED
    shares = reached / drawn if exact else (reached + 1) / (drawn + 1)
    p[tested[order]] = np.maximum.accumulate(shares[::-1])[::-1]
    return p


def _flipped(
    scaled: Float[np.ndarray, "tests seeds"], seed: int | list[int]
) -> Iterator[Float[np.ndarray, "flips tests"]]:
    """The sums of the differences under flips of the seeds' signs, some flips at a time."""
    tests, seeds = scaled.shape
    if seeds > _MOST_FLIPPED:
        yield _normal(tests, seed) @ _root(scaled @ scaled.T)
        return
    # All signs turned round give the same magnitudes: half of the flips will do.
    signs = all_signs(seeds)[: 2 ** (seeds - 1)] if seeds <= MOST_ENUMERATED else _drawn_signs(seeds, seed)
    rows = max(1, _BLOCK_ELEMENTS // max(tests, seeds))
    for start in range(0, len(signs), rows):
        yield signs[start : start + rows].astype(np.float64) @ scaled.T


@lru_cache(maxsize=MOST_ENUMERATED)
def all_signs(seeds: int) -> Int8[np.ndarray, "flips seeds"]:
    """Every choice of a sign for each of some seeds; the first half holds no choice beside its opposite."""
    bits = (np.arange(2**seeds)[:, None] >> np.arange(seeds)) & 1
    return (1 - 2 * bits).astype(np.int8)


@lru_cache(maxsize=64)
def _drawn_of(seeds: int, seed: tuple[int, ...]) -> Int8[np.ndarray, "flips seeds"]:
    drawn = np.random.default_rng(seed).integers(0, 2, (_DRAWN, seeds), dtype=np.int8)
    return 1 - 2 * drawn


def _drawn_signs(seeds: int, seed: int | list[int]) -> Int8[np.ndarray, "flips seeds"]:
    return _drawn_of(seeds, tuple(np.atleast_1d(seed).tolist()))


def _normal(tests: int, seed: int | list[int]) -> Float[np.ndarray, "draws tests"]:
    return np.random.default_rng(seed).standard_normal((_DRAWN, tests))


def _root(covariance: Float[np.ndarray, "tests tests"]) -> Float[np.ndarray, "tests tests"]:
    """A matrix whose transpose times itself is the covariance, which may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    return np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
