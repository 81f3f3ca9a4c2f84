"""How far two output distributions are apart, and how well confidence tells who is right (science.md, section 4)."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor


def kl_divergence(p: Float[Tensor, "*batch n"], q: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """KL(p‖q) in nats, of distributions given as log-probabilities; what p rules out adds nothing."""
    terms = torch.where(p == -torch.inf, 0.0, p.exp() * (p - q))
    return terms.sum(dim=-1).clamp(min=0)


def js_divergence(p: Float[Tensor, "*batch n"], q: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Jensen-Shannon divergence in nats, from 0 to ln 2, of distributions given as log-probabilities."""
    middle = torch.logaddexp(p, q) - np.log(2)
    return (kl_divergence(p, middle) + kl_divergence(q, middle)) / 2


def top_overlap(
    p: Float[Tensor, "*batch n"], q: Float[Tensor, "*batch n"], k: int
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """(share of p's k most probable outcomes among q's, cosine of p and q, each cut to its own k).

    NaN where there are not more than k outcomes. `p` and `q` are log-probabilities.
    """
    if p.shape[-1] <= k:
        undefined = p.new_full(p.shape[:-1], torch.nan)
        return undefined, undefined
    (top_p, at_p), (top_q, at_q) = p.topk(k), q.topk(k)
    same = at_p[..., :, None] == at_q[..., None, :]
    products = top_p.exp()[..., :, None] * top_q.exp()[..., None, :]
    norms = top_p.exp().norm(dim=-1) * top_q.exp().norm(dim=-1)
    return same.any(dim=-1).to(p.dtype).mean(dim=-1), (products * same).sum(dim=(-2, -1)) / norms


def calibration_error(confidence: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"], bins: int) -> float:
    """Expected calibration error over bins of equally many examples (give or take one); NaN with fewer than bins.

    Examples of equal confidence, which no order tells apart, each count as right as they are on average.
    """
    if len(confidence) < bins or not np.isfinite(confidence).all():
        return float("nan")
    values, group = np.unique(confidence, return_inverse=True)
    share = (np.bincount(group, weights=right) / np.bincount(group))[np.sort(group)]
    ordered = values[np.sort(group)]
    gaps = [abs((s - c).sum()) for s, c in zip(np.array_split(share, bins), np.array_split(ordered, bins), strict=True)]
    return float(np.sum(gaps) / len(confidence))
