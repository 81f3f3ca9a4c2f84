"""Section 4's rank metrics over whole demonstrations, and its recall of the largest; arrays by layer."""

import math

import numpy as np

from .metrics import Pairs, over_layers

TOP_TOKENS = 100
TOP_EXAMPLES = 5


def log_masses(attention: np.ndarray, pairs: list[Pairs]) -> np.ndarray:
    """Log of each demonstration's softmax mass but for one constant [layers, demonstrations].

    attention [layers, tokens], the tokens in the order of the pairs. The constant (the softmax's denominator) moves
    no rank; in logarithms no mass underflows to 0. A demonstration without tokens has no mass: -inf. Ties remain
    where one token that all demonstrations share outweighs their others by more than float64 holds: in the first
    layer, where a token's query is everywhere the same, the query's last token (":") does.
    """
    ends = np.cumsum([len(example) for example in pairs])
    parts = np.split(attention, ends[:-1], axis=1)
    return np.array([[log_sum_exp(layer) for layer in part] for part in parts]).T


def sums(weights: np.ndarray, pairs: list[Pairs]) -> np.ndarray:
    """The sum of each demonstration's weights [layers, demonstrations]; weights [layers, tokens]."""
    ends = np.cumsum([len(example) for example in pairs])
    return np.array([part.sum(axis=1) for part in np.split(weights, ends[:-1], axis=1)]).T


def log_sum_exp(values: np.ndarray) -> float:
    """Log of the sum of exponentials; -inf for no values."""
    if len(values) == 0:
        return -math.inf
    return float(values.max() + np.log(np.exp(values - values.max()).sum()))


def largest(values: np.ndarray, k: int) -> set[int]:
    """Where the k largest values are; of equal ones, the first."""
    return set(sorted(range(len(values)), key=lambda i: (-values[i], i))[:k])


def top_recall(a: np.ndarray, b: np.ndarray, k: int) -> float:
    """Share of a's k largest that are b's too; NaN where there are not more than k values."""
    return len(largest(a, k) & largest(b, k)) / k if len(a) > k else math.nan


def topk(context: list[np.ndarray], other: list[np.ndarray], k: int) -> np.ndarray:
    """Mean recall over examples, by layer; each example's attention [layers, items] against the other's."""

    def value(n: int, layer: int) -> float:
        return top_recall(context[n][layer], other[n][layer], k)

    return over_layers(value, context[0].shape[0], len(context))
