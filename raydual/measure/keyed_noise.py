"""The noise of the random baselines: its own for each seed, example, layer and element, whatever the batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from raydual.measure.conditions import Chunk
from raydual.metrics.noise import uniform

# Streams, so that no two baselines share their draws.
SIMAOU_NOISE, KENDALL_NOISE = 1, 2


def keyed_noise(
    noise_seed: int, stream: int, seeds: Tensor, chunk: Chunk, shape: Sequence[int]
) -> Float[Tensor, "G n layers elements"]:
    """Uniform noise for each of the G `seeds`, the chunk's n examples, and `shape` = (layers, elements)."""
    layers, elements = shape
    device = seeds.device
    examples = torch.as_tensor(chunk.index, device=device)
    return uniform(
        noise_seed,
        torch.tensor(stream, device=device),
        seeds[:, None, None, None],
        examples[:, None, None],
        torch.arange(layers, device=device)[:, None],
        torch.arange(elements, device=device),
    )
