"""What rounding may do to rankings: which pairs keep their order, and how far τ and top-k recall can move."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TWICE = 2.0
"""Two computed results are compared, and each may be off."""


@dataclass(frozen=True)
class Order:
    """The pairs of rows of n ranked values, `[..., n, n]` each.

    `above[i, j]`: the value at i is surely greater, or both are always equal and i comes first; `tied`: always equal;
    `unsure`: rounding decides. `top[i]` `[..., n]`: how many values are computed to be above that at i.
    """

    above: np.ndarray
    tied: np.ndarray
    unsure: np.ndarray
    top: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, moved: Sequence[np.ndarray]) -> "Order":
        """The order of `values` `[..., n]`, of which `moved` are the same computed with errors.

        A pair that never moves is exact: equal by construction, or noise. The order of another one is sure where the
        difference is more than twice what it was seen to change, and more than the last bits of its values.
        """
        difference = _differences(values)
        spread = np.max([np.abs(_differences(x) - difference) for x in moved], axis=0)
        size = np.abs(values)
        last_bits = 4 * np.finfo(values.dtype).eps * np.maximum(size[..., :, None], size[..., None, :])
        unsure = (spread > 0) & (np.abs(difference) <= TWICE * spread + last_bits)
        tied = (spread == 0) & (difference == 0)
        first = np.tri(values.shape[-1], k=-1, dtype=bool).T
        greater = (difference > 0) | ((difference == 0) & first)
        return cls(greater & ~unsure, tied, unsure, greater.sum(axis=-2))

    def pairs(self, which: np.ndarray) -> np.ndarray:
        """Number of marked pairs of different elements, `[...]`."""
        return np.triu(which, 1).sum(axis=(-2, -1))

    def may_leave(self, k: int) -> np.ndarray:
        """How many of the k on top need not be there, `[...]`."""
        stays = self.above.sum(axis=-1) >= self.above.shape[-1] - k
        return ((self.top < k) & ~stays).sum(axis=-1)


def _differences(values: np.ndarray) -> np.ndarray:
    exact = values.astype(np.float64)
    return exact[..., :, None] - exact[..., None, :]


def tau_bound(x: Order, y: Order) -> np.ndarray:
    """How far Kendall's τ-b of two rankings may move, `[...]`.

    Each unsure pair changes (concordant - discordant) by at most 2, and the root of the untied pairs, by which that is
    divided, lies between its value with all unsure pairs tied and with none. NaN where τ never has a value.
    """
    pairs = math.comb(x.tied.shape[-1], 2)
    untied = [pairs - order.pairs(order.tied) for order in (x, y)]
    flips = [order.pairs(order.unsure) for order in (x, y)]
    most = np.sqrt(untied[0] * untied[1])
    least = np.sqrt((untied[0] - flips[0]) * (untied[1] - flips[1]))
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = np.minimum(2 * sum(flips) / least + most / least - 1, 2.0)
    return np.where(most == 0, np.nan, np.where(least == 0, np.inf, bound))


def recall_bound(x: Order, y: Order, k: int) -> np.ndarray:
    """How far the share of the k on top of `x` that are on top of `y` may move, `[...]`; NaN if it has no value."""
    if x.tied.shape[-1] <= k:
        return np.full(x.tied.shape[:-2], np.nan)
    return np.minimum((x.may_leave(k) + y.may_leave(k)) / k, 1.0)


def unsure_maximum(values: np.ndarray, moved: Sequence[np.ndarray]) -> np.ndarray:
    """Whether rounding decides which of a row's values is the greatest, `[rows]`; values `[rows, n]`."""
    first = values.argmax(axis=-1)[:, None]

    def gaps(x: np.ndarray) -> np.ndarray:
        return np.take_along_axis(x, first, axis=-1) - x

    gap = gaps(values)
    spread = np.max([np.abs(gaps(x) - gap) for x in moved], axis=0)
    unsure = gap <= TWICE * spread + 4 * np.finfo(np.float32).eps * np.abs(values)
    np.put_along_axis(unsure, first, False, axis=-1)
    return unsure.any(axis=-1)
