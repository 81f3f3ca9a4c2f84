"""Seeds and examples crossed: textbook sums of squares, the pigeonhole bootstrap, coverage where the truth is known."""

import math
from dataclasses import asdict

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from raydual.statistics.crossed import Cells, CrossedSums, crossed, of_means, of_ratios
from raydual.statistics.proportions import exact, least_half_width, of_crossed, of_seeds


def drawn(rng, seeds, examples, sd_seed, sd_example, sd_interaction):
    """Values about 0 of the crossed design."""
    return (
        sd_seed * rng.standard_normal((seeds, 1))
        + sd_example * rng.standard_normal((1, examples))
        + sd_interaction * rng.standard_normal((seeds, examples))
    )


def plain_mean_squares(values):
    """The analysis of variance, cell by cell, as textbooks write it."""
    s, e = values.shape
    mean = values.mean()
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    of_seeds = sum(e * (row - mean) ** 2 for row in rows) / (s - 1)
    of_examples = sum(s * (column - mean) ** 2 for column in columns) / (e - 1)
    left = sum((values[i, j] - rows[i] - columns[j] + mean) ** 2 for i in range(s) for j in range(e))
    return of_seeds, of_examples, left / ((s - 1) * (e - 1))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 7), st.integers(2, 9), st.integers(0, 10**6), st.integers(1, 3))
def test_complete_cells_are_the_textbooks_analysis_of_variance(s, e, seed, at_a_time):
    rng = np.random.default_rng(seed)
    values = 5 + drawn(rng, s, e, *rng.uniform(0.1, 2, 3))
    found = crossed(of_means(values[start : start + at_a_time]) for start in range(0, s, at_a_time))
    of_seeds, of_examples, left = plain_mean_squares(values)
    assert (found.seeds, found.examples) == (s, e)
    assert found.mean == pytest.approx(values.mean())
    assert found.sd_seed**2 == pytest.approx(max(0, (of_seeds - left) / e), abs=1e-9)
    assert found.sd_example**2 == pytest.approx(max(0, (of_examples - left) / s), abs=1e-9)
    assert found.sd_interaction**2 == pytest.approx(left, abs=1e-9)
    assert found.distinct == pytest.approx(e)
    both_there = min(of_seeds, of_examples) > left
    assert found.variance == pytest.approx(
        (of_seeds + of_examples - left if both_there else max(of_seeds, of_examples)) / (s * e)
    )
    if both_there:
        parts = (
            found.sd_seed**2 / s + found.sd_example**2 / e + found.sd_interaction**2 / (s * e)
        )  # fmt: skip
        assert found.variance == pytest.approx(parts)
    # Satterthwaite's formula with a mean square taken off, at its least where all three are equal.
    assert found.freedom >= (s - 1) * (e - 1) / (s + e - 1) - 1e-9


def test_known_components_are_found():
    rng, truth = np.random.default_rng(0), (0.5, 1.0, 2.0)
    found = [crossed([of_means(drawn(rng, 15, 40, *truth))]) for _ in range(300)]
    # Squares, untruncated here since the components are large beside their errors.
    for name, sd in zip(("sd_seed", "sd_example", "sd_interaction"), truth, strict=True):
        squares = np.array([getattr(one, name) ** 2 for one in found])
        assert squares.mean() == pytest.approx(sd**2, abs=4 * squares.std() / np.sqrt(len(found)))


def test_the_variance_is_that_of_the_pigeonhole_bootstrap_less_what_that_adds():
    """Owen (2007): resampling rows and columns counts the interaction three times."""
    rng = np.random.default_rng(1)
    values = drawn(rng, 20, 60, 0.5, 1.0, 1.5)
    found = crossed([of_means(values)])
    seeds = rng.multinomial(20, [1 / 20] * 20, 4000) / 20
    examples = rng.multinomial(60, [1 / 60] * 60, 4000) / 60
    resampled = np.einsum("rs,se,re->r", seeds, values, examples, optimize=True)
    expected = found.variance + 2 * found.sd_interaction**2 / values.size
    assert resampled.var() == pytest.approx(expected, rel=0.12)
    over_seeds_alone = values.mean(axis=1).var(ddof=1) / 20
    assert over_seeds_alone < 0.75 * resampled.var(), "what seeds alone say is not enough"


@pytest.mark.parametrize(
    ("seeds", "examples", "sds"),
    [(8, 100, (1, 1, 1)), (24, 60, (0.2, 2, 3)), (6, 30, (1, 0, 1)), (10, 300, (0, 1, 2)), (12, 40, (0, 0, 1))],
)
def test_the_interval_covers_the_mean_of_other_seeds_and_other_examples(seeds, examples, sds):
    rng, trials = np.random.default_rng(2), 600
    found = [crossed([of_means(drawn(rng, seeds, examples, *sds))]) for _ in range(trials)]
    covered = np.mean([abs(one.mean) <= one.half_width for one in found])
    assert covered >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)
    assert covered < 0.995 or sds == (0, 0, 1)


def test_an_interval_over_seeds_alone_does_not():
    rng, trials = np.random.default_rng(3), 400
    values = [drawn(rng, 24, 60, 0.2, 2, 3).mean(axis=1) for _ in range(trials)]
    half = [scipy.stats.t.isf(0.025, 23) * x.std(ddof=1) / np.sqrt(24) for x in values]
    assert np.mean([abs(x.mean()) <= h for x, h in zip(values, half, strict=True)]) < 0.8


def test_differences_by_example_cover_and_are_narrower_than_apart():
    rng, covered, narrower = np.random.default_rng(4), [], []
    for _ in range(300):
        shared = drawn(rng, 10, 50, 1, 2, 0)
        own, other = (of_means(shared + drawn(rng, 10, 50, 0.2, 0.3, 1)) for _ in range(2))
        difference = crossed([own.minus(other)])
        covered.append(abs(difference.mean) <= difference.half_width)
        narrower.append(difference.variance < crossed([own]).variance)
    assert np.mean(covered) >= 0.91
    assert np.mean(narrower) > 0.95


def test_a_seed_without_a_value_and_examples_without_any_are_left_out():
    rng = np.random.default_rng(5)
    values = drawn(rng, 6, 9, 1, 1, 1)
    more = np.full((8, 12), np.nan)
    more[np.ix_([0, 1, 3, 4, 5, 7], range(2, 11))] = values
    assert asdict(crossed([of_means(more)])) == pytest.approx(asdict(crossed([of_means(values)])))
    pair = of_means(more).minus(of_means(np.where(np.arange(8)[:, None] == 3, np.nan, 0.0) * np.ones((8, 12))))
    assert crossed([pair]).seeds == 5


def test_cells_without_a_value_move_nothing():
    values = np.array([[1.0, 3.0, np.nan], [2.0, 4.0, 6.0]])
    cells = of_means(values)
    assert cells.values.tolist() == [2, 4]
    assert cells.moves.sum(axis=1) == pytest.approx([0, 0])
    assert cells.moves[0, 2] == 0


@pytest.mark.parametrize("shape", [(0, 3), (1, 30), (5, 1)])
def test_one_seed_or_one_example_generalises_to_nothing(shape):
    found = crossed([of_means(np.ones(shape))])
    assert math.isnan(found.variance)
    assert np.isnan(of_crossed(found)).all()
    assert math.isnan(CrossedSums().crossed().mean)


def test_a_ratio_is_that_of_the_sums_and_its_moves_are_what_an_example_changes():
    rng = np.random.default_rng(6)
    below = rng.random((4, 200)) < 0.3
    above = below & (rng.random((4, 200)) < 0.8)
    cells = of_ratios(100.0 * above, below)
    assert cells.values == pytest.approx(100 * above.sum(axis=1) / below.sum(axis=1))
    for example in range(5):
        without = np.arange(200) != example
        left = 100 * above[:, without].sum(axis=1) / below[:, without].sum(axis=1)
        assert cells.values - left == pytest.approx(cells.moves[:, example], abs=0.05)


# Proportions


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.data())
def test_the_exact_interval_is_scipys(of, data):
    count = data.draw(st.integers(0, of))
    expected = scipy.stats.binomtest(count, of).proportion_ci(0.95, "exact")
    assert exact(count, of) == pytest.approx((expected.low, expected.high))


def answers(rng, seeds, examples, easy, sd_seed, sd_example):
    """Right or not, by a probit of the seed's and the example's parts; their true share, at any ease."""
    latent = easy + sd_seed * rng.standard_normal((seeds, 1)) + sd_example * rng.standard_normal((1, examples))
    return latent + rng.standard_normal((seeds, examples)) > 0


@pytest.mark.parametrize(
    ("seeds", "examples", "easy", "sd_seed", "sd_example"),
    [(8, 100, 0.5, 0.3, 1.0), (24, 60, 3.0, 0.3, 2.0), (24, 100, 6.0, 0.1, 2.5), (12, 40, 1.0, 0.0, 0.0),
     (100, 20, 2.0, 0.2, 1.0)],
)  # fmt: skip
def test_intervals_of_proportions_cover_at_the_boundary_too(seeds, examples, easy, sd_seed, sd_example):
    truth = scipy.stats.norm.cdf(easy / np.sqrt(1 + sd_seed**2 + sd_example**2))
    rng, trials, covered, by_values = np.random.default_rng(7), 400, [], []
    for _ in range(trials):
        right = answers(rng, seeds, examples, easy, sd_seed, sd_example).astype(float)
        for cover, (low, high) in (
            (covered, of_crossed(crossed([of_means(right)]))),
            (by_values, of_seeds(right.mean(axis=1), np.full(seeds, examples))),
        ):
            assert low < high
            assert low <= right.mean() <= high
            cover.append(low <= truth <= high)
    assert np.mean(covered) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)
    assert np.mean(by_values) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)


def test_seeds_that_all_agree_leave_the_examples():
    right = np.repeat(np.arange(300)[None] < 214, 24, axis=0).astype(float)
    low, high = of_crossed(crossed([of_means(right)]))
    assert low == pytest.approx(0.66, abs=0.01)
    assert high == pytest.approx(0.76, abs=0.01)
    low, high = of_crossed(crossed([of_ratios(100 * np.ones((24, 300)), right)]), 100)
    assert (low, high) == pytest.approx(tuple(100 * x for x in exact(214, 214)))
    assert of_seeds(np.full(24, 100.0), np.full(24, 20), 100) == pytest.approx(tuple(100 * x for x in exact(20, 20)))


def test_a_difference_of_proportions_that_no_example_shows_has_a_width():
    assert least_half_width(300) == pytest.approx(1 - exact(300, 300)[0])
    assert least_half_width(1) == pytest.approx(0.975)


def test_cells_of_other_seeds_add_up():
    cells = of_means(np.random.default_rng(8).normal(size=(5, 4)))
    halves = [Cells(cells.values[r], cells.moves[r], cells.shares[r]) for r in (slice(0, 2), slice(2, 5))]
    assert asdict(crossed(halves)) == pytest.approx(asdict(crossed([cells])))
