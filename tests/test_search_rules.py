"""Which seeds the search goes on with: time has no say in it."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydual.data.examples import Dataset, Examples
from raydual.plan.halving import Halving, SeedScore, choose
from raydual.settings.controls import control_named
from raydual.settings.reading import validate_config
from raydual.study import Study

few = settings(max_examples=60, deadline=None)
SLICES = (25, 50, 100)
NO_EXAMPLES = Examples((), ())


def search(seeds, keep, accuracies, shuffle: random.Random | None = None) -> list[SeedScore]:
    """A whole search, a generation after another; in a generation, reports come in the order of `shuffle`."""
    halving, scores = Halving(seeds, SLICES, keep), []
    for generation in halving.generations():
        steps = dict.fromkeys(generation, 0)
        while steps:
            seed = (shuffle or random.Random(0)).choice(sorted(steps)) if shuffle else min(steps)
            examples = SLICES[steps[seed]]
            accuracy = accuracies[seed, examples]
            on = halving.goes_on(seed, examples, accuracy)
            steps[seed] += 1
            if not on or steps[seed] == len(SLICES):
                scores.append(SeedScore(seed, examples, accuracy, None if on else examples))
                del steps[seed]
    return sorted(scores, key=lambda score: score.seed)


def random_accuracies(seeds, seed: int, levels: int = 21) -> dict[tuple[int, int], float]:
    draw = random.Random(seed)
    return {(s, n): draw.randrange(levels) / (levels - 1) for s in seeds for n in SLICES}


searches = st.tuples(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=41, unique=True),
    st.floats(0, 1),
    st.integers(0, 10**6),
)


@few
@given(searches, st.integers(0, 10**6))
def test_the_order_of_reports_within_a_generation_changes_no_choice(found, order):
    seeds, share, draw = found
    keep = max(1, round(share * len(seeds)))
    accuracies = random_accuracies(seeds, draw)
    plain = search(seeds, keep, accuracies)
    assert search(seeds, keep, accuracies, random.Random(order)) == plain
    assert len(plain) == len(seeds)


@few
@given(searches, st.randoms(use_true_random=False))
def test_the_order_in_which_seeds_are_named_changes_no_choice(found, shuffle):
    seeds, share, draw = found
    keep = max(1, round(share * len(seeds)))
    accuracies = random_accuracies(seeds, draw)
    again = shuffle.sample(seeds, len(seeds))
    assert search(again, keep, accuracies) == search(seeds, keep, accuracies)
    scores = search(seeds, keep, accuracies)
    assert choose(shuffle.sample(scores, len(scores)), keep) == choose(scores, keep)


@few
@given(searches)
def test_who_keeps_all_stops_none(found):
    seeds, _, draw = found
    scores = search(seeds, len(seeds), random_accuracies(seeds, draw))
    assert all(score.stopped_at is None and score.examples == SLICES[-1] for score in scores)
    assert choose(scores, len(seeds)) == sorted(seeds)


@few
@given(searches)
def test_the_first_generation_and_the_best_of_all_reach_the_end(found):
    seeds, share, draw = found
    accuracies = random_accuracies(seeds, draw)
    best = seeds[0]
    accuracies |= {(best, examples): 1.0 for examples in SLICES}
    scores = {score.seed: score for score in search(seeds, max(1, round(share * len(seeds))), accuracies)}
    first = Halving(seeds, SLICES, 1).generations()[0]
    assert all(scores[seed].stopped_at is None for seed in {*first, best})


@pytest.mark.parametrize(("count", "keep"), [(200, 20), (200, 50), (200, 150), (1000, 100)])
def test_of_random_accuracies_about_as_many_reach_the_end_as_are_kept(count, keep):
    reached = [
        sum(
            score.stopped_at is None
            for score in search(range(count), keep, random_accuracies(range(count), draw, levels=10**6))
        )
        for draw in range(5)
    ]
    # The first generation, a quarter, has nothing to be compared with and always gets there.
    expected = count / 4 + 0.75 * keep
    assert np.mean(reached) == pytest.approx(expected, rel=0.15)
    assert min(reached) >= keep * 0.75


def test_the_poorer_seeds_are_the_ones_that_stop():
    quality = {seed: random.Random(seed).random() for seed in range(100)}
    scores = search(range(100), 25, {(seed, n): quality[seed] for seed in quality for n in SLICES})
    stopped = [quality[score.seed] for score in scores if score.stopped_at is not None]
    kept = [quality[seed] for seed in choose(scores, 25)]
    assert len(kept) == 25
    assert np.mean(stopped) < 0.5 < np.mean(kept)
    # Where accuracies stay the same from slice to slice, no seed among the very best is stopped.
    assert set(choose(scores, 5)) == set(sorted(quality, key=quality.get)[-5:])


@few
@given(st.integers(1, 500))
def test_generations_hold_every_seed_once_and_are_at_most_about_four(count):
    halving = Halving(random.Random(0).sample(range(10**6), count), SLICES, 1)
    generations = halving.generations()
    assert [seed for generation in generations for seed in generation] == sorted(halving.seeds)
    assert len(generations) <= 4
    assert all(halving.generation(seed) == i for i, found in enumerate(generations) for seed in found)


def test_one_slice_stops_nobody():
    halving = Halving(range(40), (25,), 3)
    assert all(halving.goes_on(seed, 25, random.Random(seed).random()) for seed in range(40))


class PlainHalving(Halving):
    """The rule as docs/design.md puts it, looked up anew among all reports every time."""

    def goes_on(self, seed: int, examples: int, accuracy: float) -> bool:
        own = self.seeds.index(seed) // self.generation_size
        self.records.setdefault((own, examples), []).append(accuracy)
        earlier = [a for (gen, n), found in self.records.items() if gen < own and n == examples for a in found]
        if not earlier or examples == self.slices[-1] or self.keep >= len(self.seeds):
            return True
        return accuracy >= float(np.quantile(earlier, 1 - self.share))


@few
@given(searches, st.sampled_from([2, 5, 21, 10**6]), st.randoms(use_true_random=False))
def test_every_answer_is_that_of_the_plain_rule_in_whatever_order_reports_come(found, levels, shuffle):
    seeds, share, draw = found
    accuracies = random_accuracies(seeds, draw, levels)
    in_turn = [(seed, examples) for seed in sorted(seeds) for examples in SLICES]
    keep = max(1, round(share * len(seeds)))
    for reports in (in_turn, shuffle.sample(in_turn, len(in_turn))):
        fast, plain = Halving(seeds, SLICES, keep), PlainHalving(seeds, SLICES, keep)
        for report in reports:
            assert fast.goes_on(*report, accuracies[report]) == plain.goes_on(*report, accuracies[report])


@few
@given(searches, st.randoms(use_true_random=False))
def test_a_trial_that_starts_again_changes_no_answer(found, shuffle):
    seeds, share, draw = found
    accuracies = random_accuracies(seeds, draw)
    halving, plain = (Halving(seeds, SLICES, max(1, round(share * len(seeds)))) for _ in range(2))
    for seed, examples in ((s, n) for s in sorted(seeds) for n in SLICES):
        answer = halving.goes_on(seed, examples, accuracies[seed, examples])
        assert answer == plain.goes_on(seed, examples, accuracies[seed, examples])
        for again in (shuffle.choice(sorted(seeds)), seed):
            if (again, examples) in halving.answers:
                before = halving.answers[again, examples]
                assert halving.goes_on(again, examples, shuffle.random()) == before
    assert halving.records == plain.records


class Counted(int):
    """A seed that counts how often it is looked at."""

    looks = 0

    def _look(name):
        def look(self, other):
            Counted.looks += 1
            return getattr(int, name)(self, other)

        return look

    __lt__, __gt__, __le__, __ge__, __eq__ = map(_look, ("__lt__", "__gt__", "__le__", "__ge__", "__eq__"))
    __hash__ = int.__hash__


def work_of(task, monkeypatch) -> int:
    """How many comparisons of seeds, and values given to `quantile`, a task takes."""
    Counted.looks, given = 0, []
    quantile = np.quantile
    monkeypatch.setattr(np, "quantile", lambda values, share: given.append(len(values)) or quantile(values, share))
    task()
    return Counted.looks + sum(given)


def other_seed_study() -> Study:
    settings = {"name": "s", "task": "sst2", "data": "embedded", "seeds": 2, "controls": {"other_seed": True}}
    return Study(validate_config(settings, "s"), Dataset(NO_EXAMPLES, NO_EXAMPLES, NO_EXAMPLES, "none"))


def counted_seeds(count: int) -> list[Counted]:
    return [Counted(seed) for seed in random.Random(0).sample(range(10**6), count)]


def whole_search(count: int) -> None:
    halving, draw = Halving(counted_seeds(count), SLICES, count // 4), random.Random(0)
    for seed in itertools.chain(*halving.generations()):
        for examples in SLICES:
            if not halving.goes_on(seed, examples, draw.random()):
                break


def all_units(count: int) -> None:
    assert len(other_seed_study().units(counted_seeds(count))) == 2 * count


@pytest.mark.parametrize("task", [whole_search, all_units])
def test_ten_times_the_seeds_are_hardly_more_than_ten_times_the_work(task, monkeypatch):
    few, many = (work_of(lambda count=count: task(count), monkeypatch) for count in (300, 3000))
    assert 0 < many < 20 * few


@few
@given(st.lists(st.integers(0, 99), min_size=2, max_size=30, unique=True))
def test_another_seed_is_the_next_in_order_and_after_the_last_the_first(seeds):
    study = other_seed_study()
    others = {unit.seed: unit.tuned_on for unit in study.units(seeds) if unit.control.name == "other_seed"}
    for seed in seeds:
        assert others[seed] == min((s for s in seeds if s > seed), default=min(seeds))
        assert study.unit(seed, control_named("other_seed"), seeds).tuned_on == others[seed]


scored = st.lists(
    st.tuples(st.integers(0, 10**6), st.sampled_from(SLICES), st.sampled_from([0.0, 0.5, 0.75, math.nan])),
    max_size=30,
    unique_by=lambda score: score[0],
).map(lambda rows: [SeedScore(*row) for row in rows])


@few
@given(scored, st.integers(1, 40))
def test_the_chosen_are_the_furthest_then_the_best_then_the_smallest_and_never_undefined(scores, keep):
    chosen = choose(scores, keep)
    usable = {score.seed: score for score in scores if not math.isnan(score.accuracy)}
    assert chosen == sorted(chosen)
    assert set(chosen) <= set(usable)
    assert len(chosen) == min(keep, len(usable))

    def rank(seed):
        return -usable[seed].examples, -usable[seed].accuracy, seed

    left_out = set(usable) - set(chosen)
    assert not left_out or not chosen or max(map(rank, chosen)) < min(map(rank, left_out))


def test_equal_scores_go_to_the_smaller_seeds():
    assert choose([SeedScore(seed, 100, 0.5) for seed in (9, 2, 7, 4)], 2) == [2, 4]
    assert choose([SeedScore(1, 100, math.nan), SeedScore(5, 25, 0.1)], 2) == [5]
