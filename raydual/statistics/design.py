"""What a design of seeds and examples can tell (docs/science.md, section 6; after Miller, arXiv 2411.00640)."""

import math
from dataclasses import dataclass

import scipy.stats

from raydual.statistics.flips import least_p

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 1_000_000


@dataclass(frozen=True)
class Components:
    """Standard deviations of a paired difference's parts: of the seed, of the example, and of both with all the rest.

    With `sd_example` NaN nothing can be said of other examples.
    """

    sd_seed: float
    sd_example: float
    sd_interaction: float


@dataclass(frozen=True)
class Design:
    """So many seeds and examples, and how many tests are corrected together.

    `other_examples`: whether a difference is to hold for other examples too, or for other seeds with these alone.
    """

    seeds: int
    examples: int
    tests: int = 1
    other_examples: bool = False

    @property
    def decides(self) -> bool:
        """Whether any differences of so few seeds could pass the test."""
        return least_p(self.seeds) < ALPHA


def detectable(parts: Components, design: Design) -> float:
    """The smallest true difference that is found four times of five (Miller's equation 10 for the crossed design).

    Infinite where no differences of so few seeds could pass the test.
    """
    if not design.decides:
        return math.inf
    s, e = design.seeds, design.examples
    left = parts.sd_interaction**2
    of_seeds = e * parts.sd_seed**2 + left
    variance, freedom = of_seeds / (s * e), float(s - 1)
    if design.other_examples:
        variance += parts.sd_example**2 / e
        if variance > 0 and e > 1:
            of_examples = s * parts.sd_example**2 + left
            spread = of_seeds**2 / (s - 1) + of_examples**2 / (e - 1) + left**2 / ((s - 1) * (e - 1))
            freedom = (variance * s * e) ** 2 / spread
    tested = scipy.stats.t.isf(ALPHA / 2 / design.tests, freedom) + scipy.stats.t.isf(1 - POWER, freedom)
    return float(tested) * math.sqrt(variance)


def seeds_for(parts: Components, difference: float, design: Design) -> int | None:
    """The fewest seeds with which such a difference is found, all else as in `design` (Miller's equation 9).

    None where a million would not do, since examples are too few.
    """

    def found(seeds: int) -> bool:
        return detectable(parts, Design(seeds, design.examples, design.tests, design.other_examples)) <= difference

    least, most = 2, 4
    while not found(most):
        least, most = most, 2 * most
        if most > MOST_SEEDS:
            return None
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if found(middle) else (middle, most)
    return most
