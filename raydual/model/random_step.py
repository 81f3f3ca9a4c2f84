"""A random step of the trained projections, as long as a fine-tuning step (docs/science.md, section 5)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from raydual.model.finetune import Tuned
from raydual.model.modules import holder, layers, projection
from raydual.model.stacked import StackedLinear


def random_step(model: PreTrainedModel, tuned: Tuned, seeds: Sequence[int], noise_seed: int) -> Tuned:
    """`tuned` with every projection moved in a random direction by as much as fine-tuning moved it.

    Each weight and bias of each layer gets a Gaussian step of its own, scaled to the (Frobenius) norm of its change.
    `seeds` are those of the G versions: a version's step depends on its own seed alone.
    """
    stacks = {}
    for number, ((index, name), stack) in enumerate(sorted(tuned.stacks.items())):
        base = projection(holder(layers(model)[index], name), name)
        keys = [[noise_seed, seed, number] for seed in seeds]
        weight = _moved(base.weight, stack.weight, keys)
        bias = None if stack.bias is None else _moved(base.bias, stack.bias, [[*key, 1] for key in keys])
        stacks[index, name] = StackedLinear(weight, bias).requires_grad_(False)
    return replace(tuned, stacks=stacks)


def _moved(
    base: Float[Tensor, "*shape"], tuned: Float[Tensor, "G *shape"], keys: Sequence[Sequence[int]]
) -> Float[Tensor, "G *shape"]:
    return torch.stack(
        [base.float() + _step_like(own - base.float(), key) for own, key in zip(tuned, keys, strict=True)]
    )


def _step_like(change: Float[Tensor, "*shape"], key: Sequence[int]) -> Float[Tensor, "*shape"]:
    """A Gaussian direction with the norm of `change`."""
    noise = gaussian(change.shape, key).to(change.device)
    return noise * (change.norm() / noise.norm())


def gaussian(shape: Sequence[int], key: Sequence[int]) -> Tensor:
    """Gaussian noise that depends on `key` alone, drawn on the host: the same on every device."""
    generator = torch.Generator().manual_seed(
        int(np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0] >> 1)
    )
    return torch.randn(tuple(shape), generator=generator)
