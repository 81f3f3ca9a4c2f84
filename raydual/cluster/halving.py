"""Which seeds the search goes on with: asynchronous successive halving whose choices do not depend on timing.

Plain ASHA compares a trial with whatever has been reported before it, so its choices change with the number of
workers. Here seeds are tried in generations, in order of seed, and a seed is compared only with the generations
before its own. Those are complete by then, so every run makes the same choices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class SeedScore:
    """What a seed's trial found: accuracy on the first `examples` selection examples."""

    seed: int
    examples: int
    accuracy: float
    stopped_at: int | None = None
    reason: str | None = None


@dataclass
class Halving:
    """The rule by which seeds are stopped early.

    `slices` are the numbers of examples at which a trial reports. At each but the last, a seed goes on if it is
    within the best share of the earlier generations that got so far. The share is such that of all seeds but those
    of the first generation, which has nobody to be compared with, the same part reaches the end that is to be kept.
    """

    seeds: Sequence[int]
    slices: Sequence[int]
    keep: int
    records: dict[tuple[int, int], list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seeds = sorted(self.seeds)
        self.generation_size = max(4, math.ceil(len(self.seeds) / 4))
        steps = max(1, len(self.slices) - 1)
        self.share = (self.keep / len(self.seeds)) ** (1 / steps)

    def generation(self, seed: int) -> int:
        """Which generation a seed belongs to."""
        return self.seeds.index(seed) // self.generation_size

    def generations(self) -> list[list[int]]:
        """The seeds of each generation, in order."""
        size = self.generation_size
        return [list(self.seeds[i : i + size]) for i in range(0, len(self.seeds), size)]

    def goes_on(self, seed: int, examples: int, accuracy: float) -> bool:
        """Take in a report and say whether the seed goes on to the next slice."""
        own = self.generation(seed)
        self.records.setdefault((own, examples), []).append(accuracy)
        earlier = [a for (gen, n), found in self.records.items() if gen < own and n == examples for a in found]
        if not earlier or examples == self.slices[-1] or self.keep >= len(self.seeds):
            return True
        return accuracy >= float(np.quantile(earlier, 1 - self.share))


def choose(scores: Sequence[SeedScore], keep: int) -> list[int]:
    """The `keep` best seeds: those that got furthest, by accuracy there, ties to the smaller seed; sorted."""
    usable = [s for s in scores if not math.isnan(s.accuracy)]
    ranked = sorted(usable, key=lambda s: (-s.examples, -s.accuracy, s.seed))
    return sorted(s.seed for s in ranked[:keep])
