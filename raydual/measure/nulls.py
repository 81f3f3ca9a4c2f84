"""Nulls that are drawn from the values of a seed (docs/science.md, section 4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from raydual.catalogue.entries import CATALOGUE, Key
from raydual.catalogue.marks import Measure, of_values
from raydual.measure.call import arrays
from raydual.metrics.similarity import norm_matched_null


@dataclass(frozen=True)
class SeedValues:
    """What one seed's examples gave, `[examples, layers]` by (metric, condition); that `shape`; the hidden `width`."""

    by_key: Mapping[Key, Float[np.ndarray, "..."]]
    shape: tuple[int, int]
    width: int

    def __getitem__(self, key: Key) -> Float[np.ndarray, "examples layers"]:
        return self.by_key[key]


def drawn_values(
    functions: Sequence[Measure], values: SeedValues, noise_seed: int, seed: int
) -> dict[Key, Float[np.ndarray, "examples layers"]]:
    """The nulls of one seed, each from a generator of that seed alone."""
    found: dict[Key, np.ndarray] = {}
    for one in functions:
        drawn = arrays(one, (values, np.random.default_rng([noise_seed, seed])), values.shape, "examples, layers")
        found |= {key: x.numpy() for key, x in drawn.items()}
    return found


@of_values(CATALOGUE["simaou_norm_matched"])
def norm_matched(
    values: SeedValues, generator: np.random.Generator
) -> dict[str, Float[np.ndarray, "examples layers"]]:  # fmt: skip
    """SimAOU of updates that are random but for their norms."""
    patched = ("update_norm", "patch") in values.by_key
    found = {}
    for name in ("icl-ft", "icl-patch", "patch-ft") if patched else ("icl-ft",):
        one, other = (values["update_norm", arm] for arm in name.split("-"))
        found[name] = norm_matched_null(one, other, values.width, generator)
    return found
