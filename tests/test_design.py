"""What a design can detect: Miller's equations where they hold, and power where the truth is known."""

import math

import numpy as np
import pytest
import scipy.stats

from raydual.statistics.crossed import crossed, of_means
from raydual.statistics.design import ALPHA, POWER, Components, Design, detectable, seeds_for
from raydual.statistics.flips import max_t

from .test_crossed import drawn

PARTS = Components(0.03, 0.1, 0.2)


def test_with_many_seeds_and_examples_it_is_millers_equation():
    """There K resamples of each of n questions; here seeds, whose own part he leaves out."""
    resamples, questions, omega, sigma = 5000, 4000, 0.3, 0.5
    z = scipy.stats.norm.isf(ALPHA / 2) + scipy.stats.norm.isf(1 - POWER)
    equation_10 = z * math.sqrt((omega**2 + sigma**2 / resamples) / questions)
    found = detectable(Components(0.0, omega, sigma), Design(resamples, questions, other_examples=True))
    assert found == pytest.approx(equation_10, rel=2e-3)


@pytest.mark.parametrize("other_examples", [False, True])
@pytest.mark.parametrize("seeds", [8, 24])
def test_a_difference_of_that_size_is_found_four_times_of_five(seeds, other_examples):
    rng, trials = np.random.default_rng(0), 500
    design = Design(seeds, 50, other_examples=other_examples)
    size, found = detectable(PARTS, design), 0
    for _ in range(trials):
        parts = drawn(rng, seeds, 50, PARTS.sd_seed, PARTS.sd_example if other_examples else 0.0, PARTS.sd_interaction)
        if other_examples:
            result = crossed([of_means(size + parts)])
            found += abs(result.mean) > result.half_width
        else:
            found += scipy.stats.ttest_1samp((size + parts).mean(axis=1), 0).pvalue < ALPHA
    assert found / trials == pytest.approx(POWER, abs=0.06)


def test_the_test_that_is_made_finds_it_in_a_family():
    rng, trials, tests = np.random.default_rng(1), 150, 6
    size = detectable(Components(0.1, 0.0, 0.0), Design(20, 1, tests))
    found = 0.0
    for number in range(trials):
        differences = 0.1 * rng.standard_normal((tests, 20))
        differences[0] += size
        found += max_t(differences, number)[0] < ALPHA
    assert POWER - 0.1 <= found / trials <= 0.95


@pytest.mark.parametrize("other_examples", [False, True])
def test_the_seeds_for_a_difference_are_the_fewest(other_examples):
    design = Design(1, 300, 8, other_examples)
    needed = seeds_for(PARTS, 0.04, design)
    assert detectable(PARTS, Design(needed, 300, 8, other_examples)) <= 0.04
    assert detectable(PARTS, Design(needed - 1, 300, 8, other_examples)) > 0.04


def test_no_number_of_seeds_replaces_examples():
    assert seeds_for(PARTS, 0.01, Design(1, 100, other_examples=True)) is None
    assert seeds_for(PARTS, 0.01, Design(1, 100)) > 6


@pytest.mark.parametrize(("seeds", "decides"), [(2, False), (5, False), (6, True)])
def test_few_seeds_detect_nothing_however_large(seeds, decides):
    assert Design(seeds, 1000).decides == decides
    assert math.isfinite(detectable(PARTS, Design(seeds, 1000))) == decides
    assert seeds_for(PARTS, 1e6, Design(seeds, 1000)) == 6


def test_more_of_anything_detects_less_and_more_tests_more():
    def at(**over):
        return detectable(PARTS, Design(**{"seeds": 12, "examples": 100, "tests": 3, "other_examples": True, **over}))

    assert at(seeds=13) < at()
    assert at(examples=101) < at()
    assert at(tests=4) > at()
    assert at(other_examples=False) < at()
