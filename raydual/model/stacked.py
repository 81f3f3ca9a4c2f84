"""Seeds as a batch dimension: G versions of the projections that are trained in one model, all else shared."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from raydual.model.modules import holder, layers, projection


class StackedLinear(nn.Module):
    """G linear layers; the rows of a batch are grouped by which of them they go through.

    `weight` is `[G, out, in]` and `bias` `[G, out]` or None, both in float32 whatever the activations' dtype.
    """

    def __init__(self, weight: Float[Tensor, "G out in"], bias: Float[Tensor, "G out"] | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    @classmethod
    def copies(cls, linear: nn.Linear, count: int) -> "StackedLinear":
        """`count` float32 copies of a linear layer."""

        def stack(x: Tensor) -> Tensor:
            return x.detach().float().expand(count, *x.shape).clone()

        return cls(stack(linear.weight), None if linear.bias is None else stack(linear.bias))

    def forward(self, x: Float[Tensor, "batch tokens in"]) -> Float[Tensor, "batch tokens out"]:
        """Each row through its own group's layer."""
        groups, out, _ = self.weight.shape
        by_group = x.reshape(groups, -1, x.shape[-1])
        y = by_group @ self.weight.to(x.dtype).transpose(1, 2)
        if self.bias is not None:
            y = y + self.bias.to(x.dtype)[:, None]
        return y.view(*x.shape[:-1], out)


Stacks = Mapping[tuple[int, str], StackedLinear]
"""Stacked layers by (decoder layer, projection name)."""


def stack_projections(model: PreTrainedModel, projections: tuple[str, ...], count: int) -> Stacks:
    """`count` trainable copies of the named projections (`anatomy.TRAINABLE`) of every layer."""
    return {
        (index, name): StackedLinear.copies(projection(holder(layer, name), name), count)
        for index, layer in enumerate(layers(model))
        for name in projections
    }


@contextmanager
def with_projections(model: PreTrainedModel, stacks: Stacks) -> Iterator[PreTrainedModel]:
    """Put `stacks` in the place of the model's projections inside the block.

    The model's own modules are set aside and put back, so their weights are never touched.
    """
    holders = {(index, name): holder(layers(model)[index], name) for index, name in stacks}
    own = {key: projection(block, key[1]) for key, block in holders.items()}
    try:
        for key, stack in stacks.items():
            setattr(holders[key], key[1], stack)
        yield model
    finally:
        for key, linear in own.items():
            setattr(holders[key], key[1], linear)


def copied(stacks: Stacks) -> Stacks:
    """The stacks as they are now, in memory of their own; nothing trains them."""
    return {
        key: StackedLinear(stack.weight.detach().clone(), None if stack.bias is None else stack.bias.detach().clone())
        .requires_grad_(False)
        for key, stack in stacks.items()
    }  # fmt: skip


def finite_groups(stacks: Stacks) -> torch.Tensor:
    """Which of the G versions have only finite weights, `[G]`."""
    checks = [torch.isfinite(p).flatten(1).all(dim=1) for stack in stacks.values() for p in stack.parameters()]
    return torch.stack(checks).all(dim=0)
