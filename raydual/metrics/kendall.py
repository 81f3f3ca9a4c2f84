"""Kendall's rank correlation for many rankings at once (docs/science.md, section 4)."""

from typing import Any, TypeAlias

from array_api_compat import array_namespace
from jaxtyping import Float

Array: TypeAlias = Any


def kendall_tau(x: Float[Array, "*#batch n"], y: Float[Array, "*#batch n"]) -> Float[Array, "*#batch"]:
    """Kendall's τ-b along the last axis, ties counted as `scipy.stats.kendalltau` does.

    `x` and `y` are broadcast against each other, so one ranking can be compared with several. NaN where a
    ranking has fewer than two elements, is constant, or has a NaN. It takes n²/2 comparisons, in n vectorised
    steps and memory proportional to the input.
    """
    xp = array_namespace(x, y)
    # `0 * x` carries a NaN anywhere in a ranking into its totals.
    agreement = xp.sum(0 * x, axis=-1) + xp.sum(0 * y, axis=-1)
    untied_x, untied_y = xp.sum(0 * x, axis=-1), xp.sum(0 * y, axis=-1)
    for lag in range(1, x.shape[-1]):
        sign_x = xp.sign(x[..., lag:] - x[..., :-lag])
        sign_y = xp.sign(y[..., lag:] - y[..., :-lag])
        agreement = agreement + xp.sum(sign_x * sign_y, axis=-1)
        untied_x = untied_x + xp.sum(xp.abs(sign_x), axis=-1)
        untied_y = untied_y + xp.sum(xp.abs(sign_y), axis=-1)
    pairs = xp.sqrt(untied_x) * xp.sqrt(untied_y)
    defined = pairs > 0
    tau = agreement / xp.where(defined, pairs, xp.ones_like(pairs))
    return xp.where(defined, xp.clip(tau, -1.0, 1.0), xp.full_like(tau, float("nan")))
