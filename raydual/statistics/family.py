"""What is decided of comparisons that are judged together: is there a difference, and is it within the margin."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from raydual.statistics.equivalence import equivalence
from raydual.statistics.flips import max_t
from raydual.statistics.over_seeds import holm


@dataclass(frozen=True)
class Decision:
    """Corrected p-values of one comparison: `p_max_t` of "no difference", `p_equivalent` of "at least the margin"."""

    p_max_t: float
    p_equivalent: float


def decide(differences: Float[np.ndarray, "tests seeds"], margin: float, seed: int | list[int]) -> list[Decision]:
    """The decisions on a family of paired differences; NaN is a seed without one.

    Differences are corrected by max-T, equivalence by Holm. Both are NaN for a test without a seed, `p_equivalent` also
    where the margin is NaN.
    """
    found = max_t(differences, seed).tolist(), holm(equivalence(differences, margin)).tolist()
    return [Decision(*pair) for pair in zip(*found, strict=True)]
