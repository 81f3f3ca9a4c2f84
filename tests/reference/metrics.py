"""The metrics of section 4 as loops over float64 arrays; a per-layer result is an array [layers]."""

import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

Pairs = list[tuple[int, int]]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two vectors; NaN where one is zero or empty."""
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms > 0 else math.nan


def mean(values: Sequence[float]) -> float:
    """Mean of the values that are defined; NaN where none is."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector over its norm."""
    return vector / np.linalg.norm(vector)


def update(after: np.ndarray, before: np.ndarray, normalised: bool) -> np.ndarray:
    """The change from `before` to `after` [hidden], each divided by its norm first where `normalised`."""
    return unit(after) - unit(before) if normalised else after - before


def over_layers(value, layers: int, examples: int) -> np.ndarray:
    """The mean over examples of value(example, layer), for each layer."""
    return np.array([mean([value(n, layer) for n in range(examples)]) for layer in range(layers)])


def simaou(icl: np.ndarray, zsl: np.ndarray, ft: np.ndarray, normalised: bool = True) -> np.ndarray:
    """SimAOU by layer; icl, zsl, ft [examples, layers, hidden]."""

    def value(n: int, layer: int) -> float:
        context = update(icl[n, layer], zsl[n, layer], normalised)
        tuning = update(ft[n, layer], zsl[n, layer], normalised)
        return cosine(context, tuning)

    return over_layers(value, icl.shape[1], icl.shape[0])


def simaou_random(icl: np.ndarray, zsl: np.ndarray, noise: np.ndarray, normalised: bool = True) -> np.ndarray:
    """SimAOU with fine-tuning's update replaced by `noise`; all [examples, layers, hidden]."""

    def value(n: int, layer: int) -> float:
        return cosine(update(icl[n, layer], zsl[n, layer], normalised), noise[n, layer])

    return over_layers(value, icl.shape[1], icl.shape[0])


def simaou_norm_matched(
    icl: np.ndarray, zsl: np.ndarray, ft: np.ndarray, generator: np.random.Generator, draws: int = 1
) -> np.ndarray:
    """Normalised SimAOU of independent Gaussian updates of the measured norms, mean of `draws` draws."""

    def replaced(after: np.ndarray, before: np.ndarray) -> np.ndarray:
        return before + unit(generator.standard_normal(before.shape)) * np.linalg.norm(after - before)

    def value(n: int, layer: int) -> float:
        before = zsl[n, layer]
        cosines = []
        for _ in range(draws):
            context = update(replaced(icl[n, layer], before), before, normalised=True)
            tuning = update(replaced(ft[n, layer], before), before, normalised=True)
            cosines.append(cosine(context, tuning))
        return mean(cosines)

    return over_layers(value, icl.shape[1], icl.shape[0])


def norm_matched_limit(rho_context: float, rho_tuning: float) -> float:
    """The null in many dimensions, of two squared relative norms; (s - 1) / (2 s) where both are equal."""
    s, t = math.sqrt(1 + rho_context), math.sqrt(1 + rho_tuning)
    return math.sqrt((1 - 1 / s) * (1 - 1 / t)) / 2


def update_norm(after: np.ndarray, zsl: np.ndarray) -> np.ndarray:
    """Norm of the raw change over the zero-shot output's, by layer; both [examples, layers, hidden]."""

    def value(n: int, layer: int) -> float:
        norm = np.linalg.norm(zsl[n, layer])
        return float(np.linalg.norm(after[n, layer] - zsl[n, layer]) / norm) if norm > 0 else math.nan

    return over_layers(value, zsl.shape[1], zsl.shape[0])


def simam(first: list[np.ndarray], second: list[np.ndarray]) -> np.ndarray:
    """Mean cosine over examples and heads, by layer; each example's scores [layers, heads, tokens]."""
    layers, heads = first[0].shape[:2]
    result = []
    for layer in range(layers):
        cosines = [cosine(a[layer, h], b[layer, h]) for a, b in zip(first, second, strict=True) for h in range(heads)]
        result.append(mean(cosines))
    return np.array(result)


def delta_simam(icl: list[np.ndarray], zsl: list[np.ndarray], ft: list[np.ndarray]) -> np.ndarray:
    """SimAM of the two changes to the scores."""
    context = [a - b for a, b in zip(icl, zsl, strict=True)]
    tuning = [a - b for a, b in zip(ft, zsl, strict=True)]
    return simam(context, tuning)


def context_attention(scores_demo: np.ndarray, pairs: list[Pairs]) -> np.ndarray:
    """Scores [layers, heads, prefix] summed over heads, at the demonstrations' tokens [layers, tokens]."""
    columns = [inside for example in pairs for _, inside in example]
    return scores_demo.sum(axis=1)[:, columns]


def tuning_attention(training: list[np.ndarray], last: np.ndarray, pairs: list[Pairs]) -> np.ndarray:
    """Inner products of training tokens with the last token [layers, tokens], in the order of the pairs.

    training: each example's vectors [layers, S, size]; last [layers, size].
    """
    columns = [
        [float(vectors[layer, alone] @ last[layer]) for layer in range(len(last))]
        for vectors, example in zip(training, pairs, strict=True)
        for alone, _ in example
    ]
    return np.array(columns).reshape(-1, len(last)).T


def kendall_tau(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's τ-b; NaN for fewer than two values or constant ones."""
    if len(a) < 2 or len(set(a)) == 1 or len(set(b)) == 1:
        return math.nan
    return float(scipy.stats.kendalltau(a, b, variant="b").statistic)


def kendall(context: list[np.ndarray], other: list[np.ndarray]) -> np.ndarray:
    """Mean τ-b over examples, by layer; each example's attention [layers, tokens] against the other's."""

    def value(n: int, layer: int) -> float:
        return kendall_tau(context[n][layer], other[n][layer])

    return over_layers(value, context[0].shape[0], len(context))


def mass(lambdas: np.ndarray) -> np.ndarray:
    """λ, the mean over examples and heads, by layer; lambdas [examples, layers, heads]."""
    return over_layers(lambda n, layer: mean(list(lambdas[n, layer])), lambdas.shape[1], lambdas.shape[0])


def rec2ftp(zsl: list[bool], icl: list[bool], ft: list[bool]) -> tuple[float, int, int]:
    """Percentage and its two counts; each argument says who is right. NaN where the second is 0."""
    both = tuned = 0
    for before, context, tuning in zip(zsl, icl, ft, strict=True):
        if not before and tuning:
            tuned += 1
            both += context
    return (100 * both / tuned if tuned else math.nan), int(both), tuned
