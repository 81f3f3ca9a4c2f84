"""Kendall's τ for thousands of rankings at once, on the device: the fast path of `raydual.metrics.kendall`."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_BLOCKS = 8


def kendall_tau(x: Float[Tensor, "batch n"], ys: Float[Tensor, "batch rankings n"]) -> Float[Tensor, "batch rankings"]:
    """Kendall's τ-b of `x` with each of `ys`, ties counted as `scipy.stats.kendalltau` does.

    NaN where a ranking has fewer than two elements, is constant, or has a NaN. Knight's identity: of all pairs,
    those tied in x, in y or in both are counted from sorted runs, the discordant ones as inversions of y in the
    order of x.
    """
    batch, rankings, n = ys.shape
    if n < 2:
        return ys.new_full((batch, rankings), float("nan"))
    x_rank, x_tied = _dense_rank(x)
    y_rank, y_tied = _dense_rank(ys)
    # One sort by (x, then y): pairs tied in x are then in the order of y and count as no inversion.
    joint = (x_rank[:, None] * n + y_rank).sort(dim=-1).values
    both_tied = _tied_pairs(joint)
    discordant = _inversions((joint % n).view(-1, n)).view(batch, rankings)
    pairs = n * (n - 1) // 2
    x_tied = x_tied[:, None]
    agreement = (pairs - x_tied - y_tied + both_tied - 2 * discordant).double()
    spread = (pairs - x_tied).double().sqrt() * (pairs - y_tied).double().sqrt()
    broken = x.isnan().any(dim=-1)[:, None] | ys.isnan().any(dim=-1)
    undefined = broken | (spread == 0)
    tau = agreement / spread.masked_fill(undefined, 1.0)
    return tau.clamp(-1.0, 1.0).masked_fill(undefined, float("nan")).to(x.dtype)


def _dense_rank(x: Float[Tensor, "*batch n"]) -> tuple[Int[Tensor, "*batch n"], Int[Tensor, "*batch"]]:
    """Ranks from 0 without gaps, equal values sharing one; and the number of tied pairs."""
    values, order = x.sort(dim=-1)
    ranks = _run_index(values)
    return torch.empty_like(ranks).scatter_(-1, order, ranks), _tied_pairs(values)


def _run_index(values: Tensor) -> Int[Tensor, "*batch n"]:
    """Which run of equal values each element of sorted rows belongs to."""
    changes = (values[..., 1:] != values[..., :-1]).long()
    return torch.nn.functional.pad(changes, (1, 0)).cumsum(dim=-1)


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
