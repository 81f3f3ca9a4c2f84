"""Changes of an MLP's weights that stand for a context, made layer by layer (docs/science.md, section 4).

At the last token of a layer, `residual` is the stream before the MLP, `normed` what the MLP gets of it, and `product`
the gated product that its down projection gets. A patch changes the gate and up projections by `W_gate D` and `W_up D`,
which is to change what they get from z to z + D z, and the down projection by a matrix of its own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from raydual.model.anatomy import DOWN
from raydual.model.modules import layers, mlp, mlp_norm, projection


@dataclass(frozen=True)
class LowRank:
    """K matrices `left @ rightᵀ`; the rows of a batch are grouped by which of them they go through."""

    left: Float[Tensor, "K out rank"]
    right: Float[Tensor, "K in rank"]

    def __call__(self, x: Float[Tensor, "rows tokens in"]) -> Float[Tensor, "rows tokens out"]:
        """Each row through its own group's matrix, in the factors' dtype; the result has that of `x`."""
        groups = self.left.shape[0]
        by_group = x.to(self.left.dtype).reshape(groups, -1, x.shape[-1])
        found = (by_group @ self.right) @ self.left.transpose(1, 2)
        return found.view(*x.shape[:-1], -1).to(x.dtype)

    def dense(self) -> Float[Tensor, "K out in"]:
        """The matrices themselves."""
        return self.left @ self.right.transpose(1, 2)

    def after(self, weight: Float[Tensor, "wide out"]) -> "LowRank":
        """`weight` times the matrices."""
        return LowRank(weight.to(self.left.dtype) @ self.left, self.right)

    def norm(self) -> Float[Tensor, "K"]:
        """Frobenius norms, from the factors."""
        grams = (x.transpose(1, 2) @ x for x in (self.left, self.right))
        first, second = grams
        return (first * second).sum(dim=(1, 2)).clamp(min=0).sqrt()

    def inner(self, other: Float[Tensor, "G out in"]) -> Float[Tensor, "K"]:
        """Frobenius inner products with G matrices, of which each stands beside K / G groups in turn."""
        right = self.right.view(len(other), -1, *self.right.shape[1:])
        through = other[:, None].to(right.dtype) @ right
        return (self.left * through.flatten(0, 1)).sum(dim=(1, 2))


@dataclass(frozen=True)
class MlpPatch:
    """`inputs`: D, how what the gate and up projections get is changed; `output`: the change of the down projection."""

    inputs: LowRank
    output: LowRank


@runtime_checkable
class Patcher(Protocol):
    """Makes the patch of each layer when a pass reaches it, from what is there at the rows' last tokens."""

    def inputs(
        self, layer: int, residual: Float[Tensor, "rows hidden"], normed: Float[Tensor, "rows hidden"]
    ) -> LowRank:
        """D, of the stream before the MLP and its norm."""

    def output(
        self, layer: int, product: Float[Tensor, "rows intermediate"], written: Float[Tensor, "rows hidden"]
    ) -> LowRank:
        """The change of the down projection, of what it gets after `inputs` and what it makes of that."""


@contextmanager
def patched_layer_by_layer(
    model: PreTrainedModel, last: Int[Tensor, "rows"], patcher: Patcher
) -> Iterator[PreTrainedModel]:
    """Inside the block every pass over rows with these `last` tokens is patched at all tokens, lower layers first."""
    rows = torch.arange(len(last), device=last.device)
    handles = []

    def watch(index: int, layer: nn.Module) -> None:
        def after_norm(_module: nn.Module, args: tuple[Tensor, ...], normed: Tensor) -> Tensor:
            return normed + patcher.inputs(index, args[0][rows, last], normed[rows, last])(normed)

        def after_down(_module: nn.Module, args: tuple[Tensor, ...], written: Tensor) -> Tensor:
            return written + patcher.output(index, args[0][rows, last], written[rows, last])(args[0])

        handles.append(mlp_norm(layer).register_forward_hook(after_norm))
        handles.append(projection(mlp(layer), DOWN).register_forward_hook(after_down))

    try:
        for index, layer in enumerate(layers(model)):
            watch(index, layer)
        yield model
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class MlpStates:
    """What enters the parts of every layer's MLP at the last tokens of a batch's rows (named above)."""

    residual: Float[Tensor, "rows layers hidden"]
    normed: Float[Tensor, "rows layers hidden"]
    product: Float[Tensor, "rows layers intermediate"]

    def converted(self, dtype: torch.dtype) -> "MlpStates":
        """The same in another dtype."""
        return MlpStates(*(x.to(dtype) for x in (self.residual, self.normed, self.product)))


@dataclass
class ContextPatcher:
    """Each row's own patch of rank one, after which its last token is, without the context, what it is with it.

    With z, h at the last token of the patched stream and z_C, h_C, m_C those `context` has, D = (z_C − z) zᵀ / ‖z‖² and
    the down projection's change is (h_C − h) m_Cᵀ / ‖m_C‖² (Dherin, arXiv 2507.16003; Goldwaser, arXiv 2511.17864).
    `observe(layer, patch)` gets each of them.
    """

    context: MlpStates
    observe: Callable[[int, MlpPatch], None]

    def inputs(self, layer: int, residual: Tensor, normed: Tensor) -> LowRank:
        """D."""
        normed = normed.to(self.context.normed.dtype)
        self._missing = self.context.residual[:, layer] - residual.to(normed.dtype)
        self._inputs = _rank_one(self.context.normed[:, layer] - normed, normed)
        return self._inputs

    def output(self, layer: int, product: Tensor, written: Tensor) -> LowRank:
        """The residual that the context's attention adds, written by the down projection."""
        found = _rank_one(self._missing, self.context.product[:, layer])
        self.observe(layer, MlpPatch(self._inputs, found))
        return found


def _rank_one(change: Float[Tensor, "rows out"], of: Float[Tensor, "rows in"]) -> LowRank:
    """The smallest matrix of each row that takes `of` to `change`."""
    return LowRank(change[:, :, None], (of / of.square().sum(dim=-1, keepdim=True))[:, :, None])
