"""Rankings of thousands of rows at once, on the device: Kendall's τ, and which elements two rankings put on top.

A ranking is sorted once, whatever it is compared with.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_BLOCKS = 8
_INDEX_BITS = 32


@dataclass(frozen=True)
class Ranking:
    """Rows of values in their order.

    `order` `[*batch, n]` are the places of the values from the smallest to the greatest, equal ones from the last
    place to the first; `ranks` `[*batch, n]` the ranks from 0 without gaps, equal values sharing one; `tied` `[*batch]`
    the number of tied pairs; `broken` `[*batch]` whether a value is NaN.
    """

    order: Int[Tensor, "*batch n"]
    ranks: Int[Tensor, "*batch n"]
    tied: Int[Tensor, "*batch"]
    broken: Bool[Tensor, "*batch"]

    @classmethod
    def of(cls, x: Float[Tensor, "*batch n"]) -> "Ranking":
        """Sort the rows of `x`."""
        order = _ascending(x)
        values = x.gather(-1, order)
        runs = _run_index(values)
        return cls(order, torch.empty_like(runs).scatter_(-1, order, runs), _tied_pairs(values), x.isnan().any(dim=-1))

    @cached_property
    def _size(self) -> int:
        return self.ranks.shape[-1]

    def top(self, k: int) -> Int[Tensor, "*batch k"]:
        """Places of the k greatest values; of equal ones the first places."""
        return self.order[..., self._size - k :]

    def tau(self, other: "Ranking") -> Float[Tensor, "*batch"]:
        """Kendall's τ-b of the rows of two rankings, in float64, ties counted as `scipy.stats.kendalltau` does.

        NaN where a row has fewer than two elements, is constant, or has a NaN. Knight's identity: of all pairs, those
        tied in one, in the other or in both are counted from sorted runs, the discordant ones as inversions of one in
        the order of the other.
        """
        n = self._size
        if n < 2:
            return self.tied.new_full(self.tied.shape, float("nan"), dtype=torch.float64)
        # Sorted by the first, then the second: pairs tied in the first are no inversion of the second.
        joint = _sorted_values(self.ranks * n + other.ranks)
        both_tied = _tied_pairs(joint)
        discordant = _inversions((joint % n).view(-1, n)).view(self.tied.shape)
        pairs = n * (n - 1) // 2
        agreement = (pairs - self.tied - other.tied + both_tied - 2 * discordant).double()
        spread = (pairs - self.tied).double().sqrt() * (pairs - other.tied).double().sqrt()
        undefined = self.broken | other.broken | (spread == 0)
        tau = agreement / spread.masked_fill(undefined, 1.0)
        return tau.clamp(-1.0, 1.0).masked_fill(undefined, float("nan"))


def kendall_tau(x: Float[Tensor, "*batch n"], y: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Kendall's τ-b along the last axis (see `Ranking.tau`)."""
    return Ranking.of(x).tau(Ranking.of(y))


def top_recall(x: Ranking, y: Ranking, k: int) -> Float[Tensor, "*batch"]:
    """Share of the k greatest of `x` that are among the k greatest of `y`; NaN if there are not more than k."""
    if x.ranks.shape[-1] <= k:
        return x.tied.new_full(x.tied.shape, float("nan"), dtype=torch.float32)
    among = torch.zeros_like(x.ranks, dtype=torch.bool).scatter(-1, y.top(k), value=True)
    return among.gather(-1, x.top(k)).float().mean(dim=-1)


def _ascending(x: Float[Tensor, "*batch n"]) -> Int[Tensor, "*batch n"]:
    """Places of the values from the smallest to the greatest, equal ones from the last place to the first."""
    last = x.shape[-1] - 1
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return last - x.flip(-1).sort(dim=-1, stable=True).indices
    # NumPy sorts integers with vector instructions, several times faster than torch sorts on a CPU. A float's bits are
    # in its own order once those of negative ones are turned round; below them goes the place, and + 0 makes -0 a 0.
    bits = (x + 0.0).view(torch.int32)
    keys = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long() << _INDEX_BITS
    keys |= torch.arange(last, -1, -1)
    ordered = torch.from_numpy(np.sort(keys.numpy(), axis=-1))
    return last - (ordered & (2**_INDEX_BITS - 1))


def _sorted_values(x: Int[Tensor, "*batch n"]) -> Int[Tensor, "*batch n"]:
    """The values of each row in order."""
    if x.device.type != "cpu":
        return x.sort(dim=-1).values
    return torch.from_numpy(np.sort(x.numpy(), axis=-1))


def _run_index(values: Tensor) -> Int[Tensor, "*batch n"]:
    """Which run of equal values each element of sorted rows belongs to."""
    changes = (values[..., 1:] != values[..., :-1]).long()
    return torch.nn.functional.pad(changes, (1, 0)).cumsum(dim=-1)[..., : values.shape[-1]]


def _tied_pairs(values: Tensor) -> Int[Tensor, "*batch"]:
    """Number of pairs of equal elements in sorted rows: each element counts those of its run before it."""
    places = torch.arange(values.shape[-1], device=values.device).expand(values.shape)
    starts = torch.nn.functional.pad(values[..., 1:] != values[..., :-1], (1, 0), value=True)
    run_starts = (places * starts).cummax(dim=-1).values
    return (places - run_starts).sum(dim=-1)


def _inversions(ranks: Int[Tensor, "rows n"]) -> Int[Tensor, "rows"]:
    """Number of pairs i < j with ranks[i] > ranks[j].

    Rows are cut into blocks: pairs inside a block are compared one with another, and each element is compared
    with all blocks before its own by a histogram of their ranks. Counts are kept in float32, which is exact up to
    2^24 and several times faster to sum than integers.
    """
    rows, n = ranks.shape
    size = -(-n // _BLOCKS)
    # Padding of a rank above all others comes last, so it is in no inversion.
    padded = torch.nn.functional.pad(ranks, (0, _BLOCKS * size - n), value=n).view(rows, _BLOCKS, size)
    small = padded.float()
    inside = torch.zeros(rows, _BLOCKS, device=ranks.device)
    for lag in range(1, size):
        inside += small[..., :-lag].clone().gt_(small[..., lag:]).sum(dim=-1)
    histogram = torch.zeros(rows, _BLOCKS, n + 1, device=ranks.device)
    histogram.scatter_add_(2, padded, torch.ones_like(small))
    earlier = histogram.cumsum(dim=1) - histogram
    # How many in earlier blocks have at most this rank; the rest of them are above it.
    at_most = earlier.cumsum(dim=2).gather(2, padded)
    before = torch.arange(_BLOCKS, device=ranks.device)[:, None] * size
    across = ((before - at_most) * (padded < n)).sum(dim=-1)
    return (inside + across).long().sum(dim=1)
