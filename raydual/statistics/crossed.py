"""Uncertainty over seeds and examples, which are crossed: every seed answers every example.

A metric's value of a seed is a mean over its examples, or a ratio of sums over them. Each cell (seed, example) counts
by how far it moves that value, so that means, ratios and cells without a value have one closed form (docs/science.md,
section 6); with complete cells it is the textbooks' analysis of variance of the balanced design with random factors.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import scipy.stats
from jaxtyping import Float, Shaped

TAIL = 0.025
"""On either side of a 95 % interval."""


@dataclass(frozen=True)
class Cells:
    """What some seeds' examples come to.

    `values` are those of the seeds, NaN where undefined; `moves` how far each example moves them, which add up to 0;
    `shares` how much each example counts in them, which add up to 1. Both are 0 for a seed without a value.
    """

    values: Float[np.ndarray, "seeds"]
    moves: Float[np.ndarray, "seeds examples"]
    shares: Float[np.ndarray, "seeds examples"]

    def minus(self, other: "Cells") -> "Cells":
        """The differences from the same seeds and examples elsewhere."""
        values = self.values - other.values
        there = ~np.isnan(values)[:, None]
        moves, shares = self.moves - other.moves, (self.shares + other.shares) / 2
        return Cells(values, np.where(there, moves, 0.0), np.where(there, shares, 0.0))


def of_means(by_example: Float[np.ndarray, "seeds examples"]) -> Cells:
    """The cells of a mean over the examples that have a value."""
    defined = ~np.isnan(by_example)
    return of_ratios(np.where(defined, by_example, 0.0), defined)


def of_ratios(above: Shaped[np.ndarray, "seeds examples"], below: Shaped[np.ndarray, "seeds examples"]) -> Cells:
    """The cells of a ratio of sums over the examples, undefined where nothing is `below`."""
    sums = below.sum(axis=1, dtype=float)
    sums = np.where(sums > 0, sums, np.nan)
    values = above.sum(axis=1, dtype=float) / sums
    moves = (above - values[:, None] * below) / sums[:, None]
    return Cells(values, np.nan_to_num(moves), np.nan_to_num(below / sums[:, None]))


@dataclass(frozen=True)
class Crossed:
    """A mean over seeds and examples, and what its variance is made of.

    `seeds` have a value, `examples` count in some seed. The three standard deviations are those of a cell's parts: of
    its seed, of its example, and of both together with all that is left; an estimate below 0 is given as 0. `variance`
    is that of the mean over other seeds and other examples, with `freedom` degrees. `distinct` is how many examples of
    equal weight the mean rests on. NaN with fewer than two seeds or examples.
    """

    seeds: int
    examples: int
    mean: float
    sd_seed: float
    sd_example: float
    sd_interaction: float
    variance: float
    freedom: float
    distinct: float

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval of the mean, by Student's t."""
        return float(scipy.stats.t.isf(TAIL, self.freedom)) * math.sqrt(self.variance)


class CrossedSums:
    """Cells, some seeds at a time; what is kept does not grow but for a number a seed."""

    def __init__(self) -> None:
        self._values: list[Float[np.ndarray, _]] = []
        self._moves: Float[np.ndarray, examples] | float = 0.0
        self._shares: Float[np.ndarray, examples] | float = 0.0
        self._squares = 0.0

    def add(self, cells: Cells) -> None:
        """Take in seeds that were not there before."""
        self._values.append(cells.values[~np.isnan(cells.values)])
        self._moves = self._moves + cells.moves.sum(axis=0)
        self._shares = self._shares + cells.shares.sum(axis=0)
        self._squares += float(np.vdot(cells.moves, cells.moves))

    def crossed(self) -> Crossed:
        """The mean and its parts, of all seeds so far."""
        values = np.concatenate(self._values) if self._values else np.empty(0)
        s, e = len(values), int(np.count_nonzero(self._shares))
        mean = float(values.mean()) if s else math.nan
        if s < 2 or e < 2:
            return Crossed(s, e, mean, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan)
        shares = np.asarray(self._shares) / s
        moves = float(((np.asarray(self._moves) / s) ** 2).sum())
        # Mean squares of the balanced design whose cells are value + examples * move.
        of_seeds = e * float(values.var(ddof=1))
        of_examples = s * e**2 * moves / (e - 1)
        left = max(0.0, e**2 * (self._squares - s * moves) / ((s - 1) * (e - 1)))
        variance, freedom = _of_mean(of_seeds, of_examples, left, s, e)
        sd_seed, sd_example = (math.sqrt(max(0.0, one)) for one in ((of_seeds - left) / e, (of_examples - left) / s))
        distinct = 1 / float((shares**2).sum())
        return Crossed(s, e, mean, sd_seed, sd_example, math.sqrt(left), variance, freedom, distinct)


def crossed(parts: Iterable[Cells]) -> Crossed:
    """The mean and its parts, of cells that come some seeds at a time."""
    sums = CrossedSums()
    for cells in parts:
        sums.add(cells)
    return sums.crossed()


def _of_mean(of_seeds: float, of_examples: float, left: float, s: int, e: int) -> tuple[float, float]:
    """The variance of the mean and its degrees of freedom (Satterthwaite), from the mean squares.

    Never below what seeds alone, or examples alone, leave it: a component that is estimated below 0 counts as 0.
    """
    largest = max(of_seeds, of_examples)
    if min(of_seeds, of_examples) <= left:
        return largest / (s * e), float((s if of_seeds >= of_examples else e) - 1)
    whole = of_seeds + of_examples - left
    spread = of_seeds**2 / (s - 1) + of_examples**2 / (e - 1) + left**2 / ((s - 1) * (e - 1))
    return whole / (s * e), whole**2 / spread
