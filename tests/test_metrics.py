"""Metrics: each against an independent computation, with the inputs for which it must give no number."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from raydual.measure.ranking import Ranking, kendall_tau, top_recall
from raydual.metrics.noise import uniform
from raydual.metrics.prediction import Recall, rec2ftp
from raydual.metrics.similarity import cosine, norm_matched_null, relative_norm, simam, simaou

few = settings(max_examples=60, deadline=None)
finite = st.floats(-1e3, 1e3, allow_subnormal=False).map(lambda value: round(value, 6))


def vectors(width: int, count: int):
    return st.tuples(*(arrays(np.float64, (3, width), elements=finite) for _ in range(count)))


def gaussian(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


# Cosine and relative norm


@few
@given(vectors(5, 2), st.floats(0.01, 100))
def test_a_cosine_is_bounded_symmetric_and_blind_to_scale(pair, scale):
    x, y = pair
    found = cosine(x, y)
    assert np.all(np.isnan(found) | (np.abs(found) <= 1))
    np.testing.assert_allclose(cosine(y, x), found, rtol=0, atol=1e-12)
    np.testing.assert_allclose(cosine(scale * x, y), found, rtol=0, atol=1e-9)
    np.testing.assert_allclose(cosine(-x, y), -found, rtol=0, atol=1e-12)


@few
@given(vectors(7, 2))
def test_a_cosine_is_the_angle_and_undefined_only_for_a_zero_vector(pair):
    x, y = pair
    for own, a, b in zip(cosine(x, y), x, y, strict=True):
        if a.any() and b.any():
            assert own == pytest.approx(1 - scipy.spatial.distance.cosine(a, b), abs=1e-9)
        else:
            assert np.isnan(own)


def test_a_cosine_without_elements_is_undefined():
    assert np.isnan(cosine(np.zeros((2, 0)), np.zeros((2, 0)))).all()
    assert torch.isnan(cosine(torch.zeros(2, 0), torch.zeros(2, 0))).all()


def test_a_cosine_of_one_element_is_a_sign_and_a_nan_stays():
    x, y = np.array([[2.0], [2.0], [np.nan]]), np.array([[3.0], [-3.0], [1.0]])
    np.testing.assert_array_equal(cosine(x, y), [1.0, -1.0, np.nan])


@pytest.mark.parametrize("metric", [cosine, relative_norm, simam, simaou])
def test_numpy_and_torch_give_the_same_numbers(metric):
    count = 3 if metric is simaou else 2
    inputs = [gaussian(seed, 2, 3, 5) for seed in range(count)]
    same = metric(*(torch.from_numpy(x) for x in inputs))
    np.testing.assert_allclose(same.numpy(), metric(*inputs), rtol=0, atol=1e-12)


def test_the_relative_norm_is_that_of_the_change_and_undefined_at_zero():
    zsl = np.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(relative_norm(zsl + np.array([1.0, 0.0]), zsl), [0.2, np.nan])
    np.testing.assert_array_equal(relative_norm(zsl, zsl), [0.0, np.nan])
    assert relative_norm(7 * zsl, 7 * (zsl * 2))[0] == pytest.approx(0.5)


# SimAOU and its null


@pytest.mark.parametrize("normalised", [True, False])
def test_equal_updates_are_wholly_alike_and_unmoved_outputs_have_no_simaou(normalised):
    zsl, other = gaussian(0, 5, 11), gaussian(1, 5, 11)
    np.testing.assert_allclose(simaou(other, other, zsl, normalised), 1.0)
    assert np.isnan(simaou(zsl, other, zsl, normalised)).all()


def test_raw_simaou_is_the_cosine_of_the_updates_and_turns_with_their_sign():
    zsl, icl, ft = (gaussian(seed, 5, 11) for seed in range(3))
    np.testing.assert_allclose(simaou(zsl + icl, zsl + ft, zsl, normalised=False), cosine(icl, ft), atol=1e-12)
    np.testing.assert_allclose(simaou(zsl + icl, zsl - icl, zsl, normalised=False), -1.0)
    assert (simaou(zsl + icl, zsl - icl, zsl) > -0.99).all()


def test_normalised_simaou_is_blind_to_the_length_of_each_output_and_raw_is_not():
    zsl, icl, ft = (gaussian(seed, 5, 11) for seed in range(3))
    np.testing.assert_allclose(simaou(2 * icl, 3 * ft, 5 * zsl), simaou(icl, ft, zsl), atol=1e-12)
    assert (np.abs(simaou(2 * icl, 3 * ft, 5 * zsl, False) - simaou(icl, ft, zsl, False)) > 1e-3).any()


def real_noise(norms: tuple[float, float], width: int, count: int, seed: int) -> list[np.ndarray]:
    """(icl, ft, zsl): a zero-shot output, and two independent Gaussian updates of these relative norms."""
    draws = gaussian(seed, 3, count, width)
    zsl, first, second = draws / np.linalg.norm(draws, axis=-1, keepdims=True)
    return [zsl + norms[0] * first, zsl + norms[1] * second, zsl]


@pytest.mark.parametrize("rho", [0.5, 3, 8])
def test_independent_updates_score_as_the_formula_says_when_normalised_and_zero_when_raw(rho):
    icl, ft, zsl = real_noise((rho**0.5, rho**0.5), width=997, count=1009, seed=0)
    s = np.sqrt(1 + rho)
    assert simaou(icl, ft, zsl).mean() == pytest.approx((s - 1) / (2 * s), abs=0.005)
    assert simaou(icl, ft, zsl, normalised=False).mean() == pytest.approx(0, abs=0.005)


@pytest.mark.parametrize("norms", [(0.5**0.5, 0.5**0.5), (3**0.5, 3**0.5), (0.3, 2.9), (8.0, 0.05), (1e-3, 1e3)])
@pytest.mark.parametrize("width", [2, 5, 101])
def test_the_norm_matched_null_is_distributed_like_real_gaussian_vectors(norms, width):
    real = simaou(*real_noise(norms, width, count=20_011, seed=1))
    drawn = norm_matched_null(*(np.full(20_011, norm) for norm in norms), width, np.random.default_rng(2))
    assert drawn.mean() == pytest.approx(real.mean(), abs=5 * real.std() / 20_011**0.5)
    assert drawn.std() == pytest.approx(real.std(), rel=0.03)
    assert scipy.stats.ks_2samp(drawn, real).pvalue > 1e-3


def test_a_null_of_other_norms_is_told_apart():
    real = simaou(*real_noise((2.0, 2.0), 101, count=5003, seed=1))
    drawn = norm_matched_null(np.full(5003, 2.0), np.full(5003, 1.8), 101, np.random.default_rng(2))
    assert scipy.stats.ks_2samp(drawn, real).pvalue < 1e-3


def test_the_null_of_an_update_of_norm_zero_is_undefined():
    null = norm_matched_null(
        np.array([[0.0], [1.0], [np.nan]]), np.array([[1.0], [0.0], [1.0]]), 13, np.random.default_rng(0)
    )
    assert null.shape == (3, 1)
    assert np.isnan(null).all()


# SimAM


@pytest.mark.parametrize("delta", [False, True])
def test_padding_with_zeros_changes_no_attention_map_similarity(delta):
    maps = [gaussian(seed, 5, 3, 7) for seed in range(3 if delta else 2)]
    padded = [np.pad(scores, [(0, 0), (0, 0), (0, 4)]) for scores in maps]
    np.testing.assert_allclose(simam(*padded), simam(*maps), atol=1e-12)
    ones = [np.pad(scores, [(0, 0), (0, 0), (0, 4)], constant_values=k) for k, scores in enumerate(maps, start=1)]
    assert (np.abs(simam(*ones) - simam(*maps)) > 1e-3).all()


def test_simam_is_the_mean_cosine_of_the_heads():
    x, y, base = (gaussian(seed, 5, 3, 7) for seed in range(3))
    by_hand = [np.mean([1 - scipy.spatial.distance.cosine(x[i, h], y[i, h]) for h in range(3)]) for i in range(5)]
    np.testing.assert_allclose(simam(x, y), by_hand)
    np.testing.assert_allclose(simam(x, y, base), simam(x - base, y - base))
    np.testing.assert_allclose(simam(x, x, base), 1.0)


def test_simam_with_one_undefined_head_is_undefined():
    x, y = gaussian(0, 5, 3, 7), gaussian(1, 5, 3, 7)
    x[2, 1] = 0
    np.testing.assert_array_equal(np.isnan(simam(x, y)), np.arange(5) == 2)
    np.testing.assert_array_equal(np.isnan(simam(x, y, y)), np.ones(5, bool))


# Kendall's τ


def float64_tau(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return kendall_tau(torch.from_numpy(x), torch.from_numpy(y)).numpy()


def float32_tau(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return float64_tau(x.astype(np.float32), y.astype(np.float32))


def scipy_tau(x: np.ndarray, y: np.ndarray) -> list[float]:
    return [scipy.stats.kendalltau(a, b).statistic for a, b in zip(x, y, strict=True)]


both = pytest.mark.parametrize("tau", [float64_tau, float32_tau], ids=["float64", "float32"])
rankings = st.integers(2, 40).flatmap(
    lambda n: st.sampled_from([2, 5, 1000]).flatmap(
        lambda most: st.tuples(
            *(arrays(np.float64, (3, n), elements=st.integers(-most, most).map(float)) for _ in range(2))
        )
    )
)


@both
@few
@given(rankings)
def test_tau_is_scipys(tau, pair):
    np.testing.assert_allclose(tau(*pair), scipy_tau(*pair), rtol=0, atol=1e-12)


@both
@pytest.mark.parametrize("n", [2, 3, 7, 8, 9, 63, 64, 65, 257, 1009])
def test_tau_of_continuous_and_of_tied_values_is_scipys_at_every_length(tau, n):
    x, y = gaussian(n, 3, n), gaussian(n + 1, 3, n)
    y = y + np.array([[0.0], [1.0], [-3.0]]) * x
    x, y = (values.astype(np.float32).astype(np.float64) for values in (x, y))
    for round_to in (9, 1, 0):
        pair = (x, y) if round_to == 9 else (np.round(x, round_to), np.round(y, round_to))
        np.testing.assert_allclose(tau(*pair), scipy_tau(*pair), rtol=0, atol=1e-12)


@both
def test_tau_with_itself_is_one_and_with_its_reverse_minus_one(tau):
    x = np.round(gaussian(0, 5, 31), 1)
    np.testing.assert_allclose(tau(x, x), 1.0, rtol=1e-14)
    np.testing.assert_allclose(tau(x, -x), -1.0, rtol=1e-14)
    np.testing.assert_array_equal(tau(gaussian(0, 5, 2), gaussian(0, 5, 2)), 1.0)


@both
@few
@given(rankings)
def test_tau_depends_on_the_order_of_values_alone_and_not_on_that_of_the_elements(tau, pair):
    x, y = pair
    found = tau(x, y)
    np.testing.assert_allclose(tau(np.arctan(x), 2 * y + 3), found, rtol=0, atol=1e-12)
    np.testing.assert_allclose(tau(y, x), found, rtol=0, atol=1e-12)
    shuffled = np.random.default_rng(0).permutation(x.shape[1])
    np.testing.assert_allclose(tau(x[:, shuffled], y[:, shuffled]), found, rtol=0, atol=1e-12)


@both
def test_tau_of_too_few_constant_or_undefined_elements_is_undefined(tau):
    x = gaussian(0, 5, 13)
    constant, broken = np.zeros_like(x), x.copy()
    broken[3, 7] = np.nan
    for y in (constant, np.full_like(x, np.nan)):
        assert np.isnan(tau(x, y)).all()
        assert np.isnan(tau(y, x)).all()
    for pair in ((x, broken), (broken, x)):
        np.testing.assert_array_equal(np.isnan(tau(*pair)), np.arange(5) == 3)
    for n in (0, 1):
        assert np.isnan(tau(x[:, :n], x[:, :n])).all()


def test_many_rankings_are_compared_at_once():
    x, y = np.round(gaussian(0, 5, 3, 13), 1), np.round(gaussian(1, 5, 3, 13), 1)
    np.testing.assert_array_equal(float64_tau(x, y), [float64_tau(*pair) for pair in zip(x, y, strict=True)])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@given(st.integers(1, 30), st.integers(0, 10**6), st.sampled_from([1, 3, 1000]))
def test_a_ranking_puts_equal_values_from_last_to_first_and_zero_is_minus_zero(kind, n, seed, most):
    draw = np.random.default_rng(seed)
    x = (draw.integers(-most, most + 1, (3, n)) * draw.choice([1.0, -1.0], (3, n)) / 7).astype(kind)
    found = Ranking.of(torch.from_numpy(x))
    for row, order, ranks, tied in zip(x, found.order, found.ranks, found.tied, strict=True):
        assert order.tolist() == sorted(range(n), key=lambda i: (row[i], -i))
        assert ranks.tolist() == np.unique(row + 0.0, return_inverse=True)[1].tolist()
        assert tied == sum(row[i] == row[j] for i in range(n) for j in range(i))
    if n > 1:
        assert found.top(1)[:, 0].tolist() == x.argmax(axis=1).tolist()


def test_top_recall_is_the_share_of_places_on_top_of_both():
    x, y = (torch.from_numpy(np.round(gaussian(seed, 5, 31), 1).astype(np.float32)) for seed in (0, 1))
    expected = [
        len({*sorted(range(31), key=lambda i: (-a[i], i))[:7]} & {*sorted(range(31), key=lambda i: (-b[i], i))[:7]}) / 7
        for a, b in zip(x, y, strict=True)
    ]
    assert top_recall(Ranking.of(x), Ranking.of(y), 7).tolist() == pytest.approx(expected)
    assert top_recall(Ranking.of(x), Ranking.of(y), 31).isnan().all()


# Noise

grid = (np.arange(3)[:, None, None], np.arange(5)[None, :, None], np.arange(701)[None, None, :])


def test_noise_is_uniform_in_every_direction():
    noise = uniform(7, *grid)
    assert noise.shape == (3, 5, 701)
    assert noise.min() >= 0
    assert noise.max() < 1
    assert scipy.stats.kstest(noise.ravel().astype(float), "uniform").pvalue > 1e-3
    for a, b in ((noise[:, :, 1:], noise[:, :, :-1]), (noise[:, 1:], noise[:, :-1]), (noise[1:], noise[:-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.05


def test_noise_differs_between_seeds_and_coordinates():
    noise = uniform(7, *grid)
    assert len(np.unique(noise)) > 0.99 * noise.size
    assert (uniform(8, *grid) != noise).mean() > 0.99
    swapped = uniform(7, np.array([2]), np.array([1]))
    assert swapped != uniform(7, np.array([1]), np.array([2]))
    assert abs(np.corrcoef(uniform(8, *grid).ravel(), noise.ravel())[0, 1]) < 0.05


@few
@given(
    st.integers(0, 2**40),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=20),
    st.randoms(use_true_random=False),
)
def test_noise_at_a_place_is_the_same_whatever_is_drawn_with_it_and_by_whom(seed, places, shuffle):
    first, second = np.array(places).T
    together = uniform(seed, first, second)
    order = shuffle.sample(range(len(places)), shuffle.randint(1, len(places)))
    np.testing.assert_array_equal(uniform(seed, first[order], second[order]), together[order])
    on_torch = uniform(seed, torch.from_numpy(first.copy()), torch.from_numpy(second.copy()))
    np.testing.assert_array_equal(on_torch.numpy(), together)
    assert ((together >= 0) & (together < 1)).all()


# Rec2FTP


@few
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=30))
def test_the_recall_counts_what_the_context_corrects_too(rights):
    both = of = 0
    for zsl, icl, ft in rights:
        if not zsl and ft:
            of += 1
            both += icl
    found = rec2ftp(*np.array(rights, bool).reshape(-1, 3).T)
    assert (found.both, found.of) == (both, of)
    if of:
        assert 0 <= found.value <= 100
        assert found.value == pytest.approx(100 * both / of)
    else:
        assert np.isnan(found.value)


def test_the_recall_does_not_count_what_was_right_from_the_start():
    zsl = np.array([True, True, False, False, False, False])
    icl = np.array([True, False, True, False, True, True])
    ft = np.array([True, True, True, True, False, True])
    assert rec2ftp(zsl, icl, ft) == Recall(both=2, of=3)
    assert rec2ftp(~zsl, icl, ft) == Recall(both=1, of=2)


def test_the_recall_of_seeds_counts_is_a_percentage():
    assert Recall(both=11, of=19).value == pytest.approx(57.9, abs=0.05)
