"""Uniform noise that depends on nothing but its coordinates: the same on every device, in every batch."""

from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace
from jaxtyping import Float, Int

Array: TypeAlias = Any

_MASK = 0xFFFFFFFF


def uniform(seed: int, *coordinates: Int[Array, "..."]) -> Float[Array, "..."]:
    """Noise in [0, 1), one value for each point of the broadcast integer `coordinates` (each at least 0).

    A counter-based generator: the seed and the coordinates are mixed into 32 bits by multiplication and shifts
    (the finaliser of MurmurHash3), so a value does not depend on what else is drawn with it.
    """
    xp = array_namespace(*coordinates)
    state = int(np.random.SeedSequence(seed).generate_state(1)[0])
    bits: Any = state
    for coordinate in coordinates:
        bits = _mix((bits + coordinate * 0x9E3779B1) & _MASK)
    # 24 bits are what float32 holds exactly.
    return xp.astype(bits >> 8, xp.float32) / 2**24


def _mix(bits: Array) -> Array:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = bits ^ (bits >> shift)
        # The product of two 32-bit numbers can pass 2^63: multiply by halves, keeping the low 32 bits.
        low = (bits * (factor & 0xFFFF)) & _MASK
        high = (bits * (factor >> 16)) & 0xFFFF
        bits = (low + (high << 16)) & _MASK
    return bits ^ (bits >> 16)
