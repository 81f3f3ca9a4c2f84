"""Decisions on families of paired differences: textbook definitions, and error rates where the truth is known."""

from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from raydual.statistics.equivalence import by_t, equivalence
from raydual.statistics.family import decide
from raydual.statistics.flips import MOST_ENUMERATED, least_p, max_t
from raydual.statistics.over_seeds import holm

ALPHA = 0.05


def plain_max_t(differences: np.ndarray) -> list[float]:
    """Step-down max-T over all flips, as Westfall and Young write it: hypothesis by hypothesis, flip by flip."""

    def statistics(signs: tuple[int, ...]) -> list[float]:
        flipped = [[d * s for d, s in zip(row, signs, strict=True) if not np.isnan(d)] for row in differences]
        return [abs(sum(row)) / (sum(d * d for d in row) ** 0.5 or 1.0) for row in flipped]

    own = statistics((1,) * differences.shape[1])
    everything = [statistics(signs) for signs in product((1, -1), repeat=differences.shape[1])]
    found, worst, left = {}, 0.0, set(range(len(own)))
    while left:
        first = max(left, key=lambda i: own[i])
        reached = [max(one[i] for i in left) >= own[first] - 1e-9 for one in everything]
        worst = max(worst, sum(reached) / len(reached))
        found[first] = worst
        left.remove(first)
    return [found[i] for i in range(len(own))]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 7), st.integers(0, 10**6), st.booleans())
def test_max_t_is_the_textbooks_step_down_over_all_flips(tests, seeds, seed, whole):
    rng = np.random.default_rng(seed)
    differences = rng.integers(-2, 3, (tests, seeds)) / 2 if whole else rng.normal(0.5, 1, (tests, seeds))
    differences[rng.random(differences.shape) < 0.2] = np.nan
    tested = ~np.isnan(differences).all(axis=1)
    found = max_t(differences, 0)
    assert np.isnan(found[~tested]).all()
    np.testing.assert_allclose(found[tested], plain_max_t(differences[tested]), atol=1e-12)


def test_eight_seeds_can_tell_ten_controls_where_holm_cannot():
    differences = np.random.default_rng(0).normal(0.498, 0.005, (10, 8))
    assert (max_t(differences, 0) == 2 / 2**8).all()
    assert (holm(np.full(10, scipy.stats.wilcoxon(differences[0]).pvalue)) > ALPHA).all()


@pytest.mark.parametrize("n", [1, 5, 6, MOST_ENUMERATED, MOST_ENUMERATED + 1, 300])
def test_no_differences_have_a_smaller_p_than_the_least(n):
    assert max_t(np.ones((3, n)), 0) == pytest.approx([least_p(n)] * 3)
    assert (least_p(n) < ALPHA) == (n >= 6)


def test_flips_that_are_drawn_agree_with_all_flips(monkeypatch):
    differences = np.random.default_rng(3).normal([[0.1], [0.4], [0.8]], 1.0, (3, 12))
    exact = max_t(differences, 0)
    monkeypatch.setattr("raydual.statistics.flips.MOST_ENUMERATED", 5)
    np.testing.assert_allclose(max_t(differences, 0), exact, atol=0.02)
    assert (max_t(differences, 0) == max_t(differences, 0)).all()
    assert (max_t(differences, 0) != max_t(differences, 1)).any()


def test_for_many_seeds_the_normal_distribution_stands_for_the_flips(monkeypatch):
    rng = np.random.default_rng(4)
    differences = rng.exponential(1.0, 400) - 1 + rng.normal([[0.0], [0.08], [0.12]], 0.5, (3, 400))
    approximate = max_t(differences, 0)
    monkeypatch.setattr("raydual.statistics.flips._MOST_FLIPPED", 10**6)
    np.testing.assert_allclose(approximate, max_t(differences, 0), atol=0.03)


@pytest.mark.parametrize("seeds", [8, 20])
@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_some_false_difference_is_found_in_at_most_5_of_100_families(seeds, shared, monkeypatch):
    """Three of five comparisons have no difference; all share noise, as controls share a measurement."""
    monkeypatch.setattr("raydual.statistics.flips._DRAWN", 199)
    rng, families = np.random.default_rng(1), 600
    shifts = np.array([0.0, 0.0, 0.0, 2.0, 2.0])[:, None]
    wrong = right = 0
    for family in range(families):
        noise = shared * rng.standard_t(4, seeds) + (1 - shared) * rng.standard_t(4, (5, seeds))
        found = max_t(noise + shifts, family)
        wrong += (found[:3] < ALPHA).any()
        right += (found[3:] < ALPHA).mean()
    assert wrong / families <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / families)
    assert right / families > 0.5
    if shared:
        assert wrong / families >= 0.015, "it is no more careful than it must be, which Holm would be"


# Equivalence


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10**6), st.floats(0.01, 1))
def test_the_t_tests_are_scipys(n, seed, margin):
    differences = np.random.default_rng(seed).normal(0.1, 0.5, n)
    lower = scipy.stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    upper = scipy.stats.ttest_1samp(differences, margin, alternative="less").pvalue
    found = np.maximum(by_t(differences[None] + margin), by_t(margin - differences[None]))
    assert found == pytest.approx([max(lower, upper)], rel=1e-9)
    if n > MOST_ENUMERATED:
        assert equivalence(differences[None], margin) == pytest.approx(found)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(0, 10**6))
def test_for_few_seeds_all_flips_are_scipys_permutation_test(n, seed):
    differences, margin = np.random.default_rng(seed).normal(0.1, 0.3, n), 0.4

    def one_sided(values):
        return scipy.stats.permutation_test(
            (values,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf
        ).pvalue

    expected = max(one_sided(differences + margin), one_sided(margin - differences))
    assert equivalence(differences[None], margin) == pytest.approx([expected])


@pytest.mark.parametrize("seeds", [8, 20])
@pytest.mark.parametrize("side", [-1, 1])
def test_what_lies_on_the_margin_is_called_equivalent_in_at_most_5_of_100(seeds, side):
    trials = 4000
    differences = np.random.default_rng(2).normal(side * 0.05, 0.04, (trials, seeds))
    called = (equivalence(differences, 0.05) < ALPHA).mean()
    assert called <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / trials)
    assert (equivalence(differences - side * 0.05, 0.05) < ALPHA).mean() > 0.8, "and what lies at 0, mostly"


@pytest.mark.parametrize("n", [8, 20])
@pytest.mark.parametrize(("value", "expected"), [(0.0, True), (0.04, True), (0.05, False), (-0.2, False)])
def test_equal_differences_are_within_the_margin_or_not(n, value, expected):
    assert (equivalence(np.full((1, n), value), 0.05) < ALPHA).all() == expected


def test_a_family_is_decided_together_and_what_cannot_be_is_undefined():
    differences = np.random.default_rng(0).normal(0, 0.01, (4, 9))
    differences[1], differences[2, :3] = np.nan, np.nan
    found = decide(differences, 0.05, 0)
    assert np.isnan([found[1].p_max_t, found[1].p_equivalent]).all()
    assert found[0].p_equivalent == found[3].p_equivalent == 3 / 2**9, "corrected for three tests by Holm"
    assert found[2].p_equivalent == 1 / 2**6
    assert all(np.isnan(one.p_equivalent) for one in decide(differences, float("nan"), 0))
