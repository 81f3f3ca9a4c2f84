"""A metric across seeds: the numbers of NumPy and SciPy, the same in every order, none dropped in silence."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from raydual.statistics.bootstrap import Bootstrap
from raydual.statistics.over_seeds import Distribution, compare, compare_all, describe, describe_all, holm

few = settings(max_examples=40, deadline=None)
values = st.lists(st.integers(-(10**6), 10**6).map(lambda value: value / 10**4), min_size=2, max_size=30).map(np.array)


def mean_interval(sample: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    low, high = Bootstrap(resamples, seed).intervals(sample[None])[0]
    return float(low), float(high)


def numbers(found: Distribution) -> np.ndarray:
    return np.array(list(asdict(found).values()))


@few
@given(values)
def test_a_distribution_is_numpys(sample):
    found = describe(sample, resamples=100, seed=0)
    expected = [
        len(sample), 0, sample.mean(), sample.std(ddof=1),
        sample.min(), *np.quantile(sample, [0.25, 0.5, 0.75]), sample.max(),
    ]  # fmt: skip
    np.testing.assert_allclose(numbers(found)[:-2], expected, atol=1e-12)


def test_scipy_gives_the_intervals_of_many_samples_at_once_from_the_same_resamples():
    samples = np.sort(np.random.default_rng(1).normal(0.3, 0.1, (4, 31)), axis=1)
    expected = scipy.stats.bootstrap(
        (samples,), np.mean, axis=1, n_resamples=997, method="BCa", rng=np.random.default_rng(7)
    ).confidence_interval
    np.testing.assert_allclose(Bootstrap(997, 7).intervals(samples), np.stack(expected, axis=1), rtol=1e-9)


@pytest.mark.parametrize("draw", ["normal", "skewed", "tied"])
@pytest.mark.parametrize("seed", [0, [3, 2**63]])
def test_the_interval_is_scipys_with_the_same_generator(draw, seed):
    rng = np.random.default_rng(5)
    sample = {
        "normal": rng.normal(0.3, 0.1, 31),
        "skewed": rng.exponential(2.0, 31),
        "tied": rng.integers(0, 3, 31).astype(float),
    }[draw]
    expected = scipy.stats.bootstrap(
        (np.sort(sample),), np.mean, n_resamples=997, method="BCa", rng=np.random.default_rng(seed)
    ).confidence_interval
    found = describe(sample, resamples=997, seed=seed)
    # Values are put on a grid that rounding cannot disturb, so the two differ in the last digits.
    assert (found.ci_low, found.ci_high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert mean_interval(np.sort(sample), 997, seed) == (found.ci_low, found.ci_high)


def test_the_interval_does_not_depend_on_how_many_resamples_are_held_at_once(monkeypatch):
    sample = np.random.default_rng(0).exponential(size=31)
    whole = mean_interval(sample, 997, 0)
    monkeypatch.setattr("raydual.statistics.bootstrap._BLOCK_ELEMENTS", 31 * 7)
    assert mean_interval(sample, 997, 0) == pytest.approx(whole, rel=1e-9)


def plain_counts(n: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of n values is in each resample, counted resample by resample."""
    drawn = np.random.default_rng(seed).integers(0, n, (resamples, n))
    return np.stack([np.bincount(row, minlength=n) for row in drawn])


@pytest.mark.parametrize("n", [2, 31, 500])
@pytest.mark.parametrize("kept", ["in memory", "in a file", "nowhere"])
def test_resamples_are_the_same_wherever_they_are_kept(n, kept, monkeypatch):
    monkeypatch.setattr("raydual.statistics.bootstrap._CACHE_BYTES", 2**28 if kept == "in memory" else 0)
    monkeypatch.setattr("raydual.statistics.bootstrap._FILE_BYTES", 0 if kept == "nowhere" else 2**31)
    monkeypatch.setattr("raydual.statistics.bootstrap._BLOCK_ELEMENTS", 7 * n)
    monkeypatch.setattr("raydual.statistics.bootstrap._COUNTED_ELEMENTS", 100)
    bootstrap = Bootstrap(101, 3)
    for _ in range(3):
        assert (np.concatenate(list(bootstrap._blocks(n))) == plain_counts(n, 101, 3)).all()
    assert bool(bootstrap._files) == (kept == "in a file")


def test_resamples_that_no_disk_holds_are_drawn_again(monkeypatch):
    def full(file, block, start):
        written.append(start)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        return len(block) // 2 if len(written) == 3 else os_pwrite(file, block, start)

    written, os_pwrite = [], os.pwrite
    monkeypatch.setattr("raydual.statistics.bootstrap._CACHE_BYTES", 0)
    monkeypatch.setattr("raydual.statistics.bootstrap._BLOCK_ELEMENTS", 31 * 20)
    monkeypatch.setattr("os.pwrite", full)
    bootstrap = Bootstrap(101, 3)
    for files in ([], [], [], [31]):
        assert (np.concatenate(list(bootstrap._blocks(31))) == plain_counts(31, 101, 3)).all()
        assert list(bootstrap._files) == files


def test_threads_may_share_a_bootstrap_and_it_travels_to_other_processes():
    samples = np.random.default_rng(0).normal(size=(40, 4, 60))
    alone = [Bootstrap(997, 2).intervals(block) for block in samples]
    shared = Bootstrap(997, 2)
    with ThreadPoolExecutor(8) as pool:
        np.testing.assert_array_equal(list(pool.map(shared.intervals, samples)), alone)
    assert len(pickle.dumps(shared)) < 1000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(shared)).intervals(samples[0]), alone[0])


@few
@given(st.lists(values, min_size=1, max_size=6), st.integers(0, 2))
def test_what_is_told_of_a_sample_does_not_depend_on_the_others(samples, undefined):
    samples = [np.array([*sample.tolist(), *[float("nan")] * undefined]) for sample in samples]
    together = describe_all(samples, Bootstrap(199, 1)), compare_all(samples, Bootstrap(199, 1))
    for sample, described, compared in zip(samples, *together, strict=True):
        alone = describe(sample, resamples=199, seed=1), compare(sample, np.zeros(len(sample)), resamples=199, seed=1)
        np.testing.assert_equal((asdict(described), asdict(compared)), tuple(map(asdict, alone)))


@few
@given(values, st.randoms(use_true_random=False), st.integers(0, 3))
def test_the_order_of_seeds_and_undefined_ones_change_nothing(sample, shuffle, undefined):
    mixed = [*sample.tolist(), *[float("nan")] * undefined]
    shuffle.shuffle(mixed)
    found = asdict(describe(np.array(mixed), resamples=100, seed=1))
    assert found.pop("undefined") == undefined
    expected = asdict(describe(sample, resamples=100, seed=1))
    expected.pop("undefined")
    np.testing.assert_equal(found, expected)


def test_another_seed_draws_other_resamples():
    sample = np.random.default_rng(0).normal(size=31)
    first, second = (describe(sample, resamples=199, seed=seed) for seed in (0, 1))
    assert (first.ci_low, first.ci_high) != (second.ci_low, second.ci_high)
    assert numbers(first)[:-2].tolist() == numbers(second)[:-2].tolist()


@few
@given(values)
def test_the_interval_lies_within_the_values_and_holds_their_mean(sample):
    found = describe(sample, resamples=499, seed=0)
    slack = 1e-9
    assert found.min - slack <= found.ci_low <= found.ci_high <= found.max + slack
    if len(sample) > 5:
        assert found.ci_low <= found.mean + slack
        assert found.ci_high >= found.mean - slack


@pytest.mark.parametrize("undefined", [0, 3])
def test_without_a_value_nothing_is_told_but_the_counts(undefined):
    found = numbers(describe(np.full(undefined, np.nan), resamples=100, seed=0))
    assert found[:2].tolist() == [0, undefined]
    assert np.isnan(found[2:]).all()


def test_one_value_has_neither_a_spread_nor_an_interval():
    found = describe(np.array([np.nan, 0.25]), resamples=100, seed=0)
    assert (found.n, found.undefined) == (1, 1)
    assert found.mean == found.min == found.q25 == found.median == found.q75 == found.max == 0.25
    assert np.isnan([found.sd, found.ci_low, found.ci_high]).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -7.7, 1e6])
@pytest.mark.parametrize("noise", [0.0, 1e-16])
def test_equal_values_have_that_value_as_their_interval(value, noise):
    sample = value + noise * np.arange(7)
    found = describe(sample, resamples=100, seed=0)
    assert [found.ci_low, found.mean, found.ci_high] == pytest.approx([value] * 3, rel=1e-12, abs=1e-12)
    assert found.sd == pytest.approx(0, abs=1e-9)


def test_an_interval_of_95_per_cent_holds_the_truth_about_as_often():
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.normal(0.4, 2.0, 30), 500, seed) for seed in range(200)]
    covered = np.mean([low <= 0.4 <= high for low, high in intervals])
    assert 0.88 <= covered <= 0.99
    halves = np.mean([low <= 0.4 + 0.9 <= high for low, high in intervals])
    assert halves < 0.6


@given(st.integers(2, 40), st.integers(0, 10**6))
def test_a_comparison_is_of_the_differences_and_its_order_does_not_matter(n, seed):
    rng = np.random.default_rng(seed)
    values, baseline = rng.normal(0.3, 1, n), rng.normal(0, 1, n)
    found = compare(values, baseline, resamples=200, seed=1)
    order = rng.permutation(n)
    assert compare(values[order], baseline[order], resamples=200, seed=1) == found
    assert found.difference == pytest.approx(np.mean(values - baseline))
    assert found.p == pytest.approx(scipy.stats.wilcoxon(values, baseline).pvalue)
    assert found.ci_low <= found.difference <= found.ci_high
    opposite = compare(baseline, values, resamples=200, seed=1)
    assert opposite.p == pytest.approx(found.p)
    assert opposite.difference == pytest.approx(-found.difference)


@few
@given(st.integers(1, 20), st.integers(0, 10**6), st.sampled_from([1, 2, 5, 1000]))
def test_the_signed_rank_test_is_scipys_with_ties_and_zeros(n, seed, steps):
    differences = np.random.default_rng(seed).integers(-steps, steps + 1, n) / steps
    found = compare(differences, np.zeros(n), resamples=100, seed=0)
    expected = scipy.stats.wilcoxon(differences).pvalue if np.any(differences) else 1.0
    assert found.p == pytest.approx(expected, abs=1e-12)
    assert found.above == pytest.approx(np.mean(differences > 0) + np.mean(differences == 0) / 2)


def test_comparisons_leave_out_seeds_that_lack_one_of_the_two():
    values, baseline = np.array([1.0, np.nan, 3.0, 4.0]), np.array([0.0, 1.0, np.nan, 1.0])
    found = compare(values, baseline, resamples=100, seed=0)
    assert (found.n, found.difference) == (2, 2.0)
    assert compare(np.array([np.nan]), np.array([1.0]), resamples=100, seed=0).n == 0
    same = compare(np.ones(5), np.ones(5), resamples=100, seed=0)
    assert (same.difference, same.p) == (0.0, 1.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_textbooks_step_down(p_values):
    expected, worst = {}, 0.0
    for rank, (p, place) in enumerate(sorted((p, i) for i, p in enumerate(p_values))):
        worst = max(worst, (len(p_values) - rank) * p)
        expected[place] = min(worst, 1.0)
    found = holm(np.array([*p_values, np.nan]))
    assert np.isnan(found[-1])
    np.testing.assert_allclose(found[:-1], [expected[i] for i in range(len(p_values))])
