"""The noise of the random baselines: its own for each seed, example, layer and element, whatever the batch."""

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raydual.metrics.noise import uniform

# Streams, so that no two baselines share their draws; those of rankings are one baseline.
KENDALL_NOISE = 2
_STREAMS = {"simaou_random": 1}
_FIRST_BY_NAME = 2**30


def stream_of(metric: str) -> int:
    """The stream of a metric's noise: one of its own, that follows from its name."""
    return _STREAMS.get(metric) or _FIRST_BY_NAME + zlib.crc32(metric.encode()) % _FIRST_BY_NAME


def keyed_noise(
    noise_seed: int, stream: int, seeds: Tensor, index: np.ndarray, shape: Sequence[int]
) -> Float[Tensor, "G n layers elements"]:
    """Uniform noise for each of the G `seeds`, the n examples `index`, and `shape` = (layers, elements)."""
    layers, elements = shape
    device = seeds.device
    examples = torch.as_tensor(index, device=device)
    return uniform(
        noise_seed,
        torch.tensor(stream, device=device),
        seeds[:, None, None, None],
        examples[:, None, None],
        torch.arange(layers, device=device)[:, None],
        torch.arange(elements, device=device),
    )
