"""Cosine similarity, and the similarities of updates (SimAOU) and of attention maps (SimAM).

Every function takes NumPy or torch arrays with any leading axes. Undefined values are NaN. Definitions:
docs/science.md, section 4.
"""

from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace
from jaxtyping import Float

Array: TypeAlias = Any


def cosine(x: Float[Array, "*#batch width"], y: Float[Array, "*#batch width"]) -> Float[Array, "*#batch"]:
    """Cosine of the angle between vectors; NaN where one of them is zero or has no elements."""
    xp = array_namespace(x, y)
    lengths = xp.linalg.vector_norm(x, axis=-1) * xp.linalg.vector_norm(y, axis=-1)
    defined = lengths > 0
    inner = xp.sum(x * y, axis=-1) / xp.where(defined, lengths, xp.ones_like(lengths))
    return xp.where(defined, xp.clip(inner, -1.0, 1.0), xp.full_like(inner, float("nan")))


def unit(x: Float[Array, "*#batch width"]) -> Float[Array, "*#batch width"]:
    """Vectors divided by their norms; a zero vector becomes NaN."""
    xp = array_namespace(x)
    return x / xp.linalg.vector_norm(x, axis=-1, keepdims=True)


def simaou(
    icl: Float[Array, "*#batch width"],
    ft: Float[Array, "*#batch width"],
    zsl: Float[Array, "*#batch width"],
    normalised: bool = True,
) -> Float[Array, "*#batch"]:
    """Similarity of attention output updates: cos(icl - zsl, ft - zsl).

    `normalised` divides each output by its norm first (Dai); without it is Deutch's raw variant.
    """
    if normalised:
        icl, ft, zsl = unit(icl), unit(ft), unit(zsl)
    return cosine(icl - zsl, ft - zsl)


def relative_norm(other: Float[Array, "*#batch width"], zsl: Float[Array, "*#batch width"]) -> Float[Array, "*#batch"]:
    """Norm of the update over the norm of the zero-shot output; NaN where that is zero."""
    xp = array_namespace(other, zsl)
    base = xp.linalg.vector_norm(zsl, axis=-1)
    ratio = xp.linalg.vector_norm(other - zsl, axis=-1) / xp.where(base > 0, base, xp.ones_like(base))
    return xp.where(base > 0, ratio, xp.full_like(ratio, float("nan")))


def norm_matched_null(
    icl_norm: Float[np.ndarray, "*#batch"],
    ft_norm: Float[np.ndarray, "*#batch"],
    width: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "*#batch"]:
    """Normalised SimAOU of two independent Gaussian updates with these norms (relative to the zero-shot output).

    The value depends on three cosines only: those of the two updates with the zero-shot output, and the one
    between what is left of them at right angles to it. For isotropic noise in `width` dimensions these are
    independent and their distribution is known, so they are drawn instead of the vectors: the same distribution
    at a cost that does not grow with the width. Its mean for equal norms follows (s - 1) / (2 s), s = sqrt(1 + ρ).
    """
    along_icl, along_ft = (_random_cosine(icl_norm.shape, width, rng) for _ in range(2))
    between = _random_cosine(icl_norm.shape, width - 1, rng)
    # Coordinates with the zero-shot output as the first axis and the icl update in the plane of the first two.
    icl_out = (1 + icl_norm * along_icl, icl_norm * np.sqrt(1 - along_icl**2))
    across = ft_norm * np.sqrt(1 - along_ft**2)
    ft_out = (1 + ft_norm * along_ft, across * between, across * np.sqrt(1 - between**2))
    icl_vector = np.stack([*icl_out, np.zeros_like(across)], axis=-1)
    ft_vector = np.stack(ft_out, axis=-1)
    zsl_vector = np.zeros_like(icl_vector)
    zsl_vector[..., 0] = 1.0
    with np.errstate(invalid="ignore"):
        null = simaou(icl_vector, ft_vector, zsl_vector)
    return np.where((icl_norm > 0) & (ft_norm > 0), null, np.nan)


def _random_cosine(shape: tuple[int, ...], width: int, rng: np.random.Generator) -> np.ndarray:
    """Cosine between a fixed and a uniformly random direction in `width` >= 1 dimensions."""
    first = rng.standard_normal(shape)
    rest = rng.chisquare(width - 1, shape) if width > 1 else np.zeros(shape)
    return first / np.sqrt(first**2 + rest)


def simam(
    scores: Float[Array, "*#batch heads tokens"],
    other: Float[Array, "*#batch heads tokens"],
    base: Float[Array, "*#batch heads tokens"] | None = None,
) -> Float[Array, "*#batch"]:
    """Similarity of attention maps: mean over heads of cos(scores, other).

    With `base`, ΔSimAM (Deutch): cos(scores - base, other - base). Tokens that do not count must be 0 in all
    arguments. NaN where a head's cosine is undefined.
    """
    found = simam_of_heads(scores, other, base)
    return array_namespace(found).mean(found, axis=-1)


def simam_of_heads(
    scores: Float[Array, "*#batch heads tokens"],
    other: Float[Array, "*#batch heads tokens"],
    base: Float[Array, "*#batch heads tokens"] | None = None,
) -> Float[Array, "*#batch heads"]:
    """The cosine of each head, whose mean is SimAM; the arguments are those of `simam`."""
    if base is not None:
        scores, other = scores - base, other - base
    return cosine(scores, other)
