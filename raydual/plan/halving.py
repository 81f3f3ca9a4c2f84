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

    `records` are the accuracies by (generation, slice), `answers` those given by (seed, slice), `thresholds` the number
    of earlier accuracies and their quantile by (generation, slice).
    """

    seeds: Sequence[int]
    slices: Sequence[int]
    keep: int
    records: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    answers: dict[tuple[int, int], bool] = field(default_factory=dict)
    thresholds: dict[tuple[int, int], tuple[int, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seeds = sorted(self.seeds)
        self.places = {seed: place for place, seed in enumerate(self.seeds)}
        self.generation_size = max(4, math.ceil(len(self.seeds) / 4))
        steps = max(1, len(self.slices) - 1)
        self.share = (self.keep / len(self.seeds)) ** (1 / steps)

    def generation(self, seed: int) -> int:
        """Which generation a seed belongs to."""
        return self.places[seed] // self.generation_size

    def generations(self) -> list[list[int]]:
        """The seeds of each generation, in order."""
        size = self.generation_size
        return [list(self.seeds[i : i + size]) for i in range(0, len(self.seeds), size)]

    def goes_on(self, seed: int, examples: int, accuracy: float) -> bool:
        """Take in a report and say whether the seed goes on to the next slice.

        A trial that was started again reports the same slice again: that gets the first answer, and counts once.
        """
        if (seed, examples) not in self.answers:
            own = self.generation(seed)
            self.records.setdefault((own, examples), []).append(accuracy)
            self.answers[seed, examples] = self._is_good_enough(own, examples, accuracy)
        return self.answers[seed, examples]

    def _is_good_enough(self, own: int, examples: int, accuracy: float) -> bool:
        if examples == self.slices[-1] or self.keep >= len(self.seeds):
            return True
        threshold = self._threshold(own, examples)
        return threshold is None or accuracy >= threshold

    def _threshold(self, own: int, examples: int) -> float | None:
        """The accuracy that a generation must reach at a slice; None: nobody before it got there.

        The generations before are complete, so it is found once, and again only if a report of theirs comes late.
        """
        earlier = [self.records.get((generation, examples), []) for generation in range(own)]
        count = sum(map(len, earlier))
        if not count:
            return None
        counted, threshold = self.thresholds.get((own, examples), (0, 0.0))
        if counted != count:
            threshold = float(np.quantile(np.concatenate(earlier), 1 - self.share))
            self.thresholds[own, examples] = count, threshold
        return threshold


def choose(scores: Sequence[SeedScore], keep: int) -> list[int]:
    """The `keep` best seeds: those that got furthest, by accuracy there, ties to the smaller seed; sorted."""
    usable = [s for s in scores if not math.isnan(s.accuracy)]
    ranked = sorted(usable, key=lambda s: (-s.examples, -s.accuracy, s.seed))
    return sorted(s.seed for s in ranked[:keep])
