"""One patch for all queries: fitted by least squares, layer by layer in one pass (docs/science.md, section 4)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from raydual.model.anatomy import DOWN, GATE, UP
from raydual.model.modules import layers, mlp, projection
from raydual.model.passes import Rows, hidden_states
from raydual.model.patches import LowRank, MlpPatch, patched_layer_by_layer


def ridge_map(x: Float[Tensor, "queries in"], wanted: Float[Tensor, "queries out"], ridge: float) -> LowRank:
    """The matrix M of least norm that minimises mean ‖M x − wanted‖² + `ridge` · mean ‖x‖² · ‖M‖² over the queries.

    Solved in float64 by the singular values of the inputs; those below rounding count as 0.
    """
    rounding = torch.finfo(x.dtype).eps * max(x.shape)
    x, wanted, dtype = x.double(), wanted.double(), x.dtype
    left, sizes, right = torch.linalg.svd(x, full_matrices=False)
    weight = ridge * x.square().sum()
    inverse = torch.where(sizes > rounding * sizes.amax(), sizes / (sizes.square() + weight), 0.0)
    through = wanted.T @ left * torch.nan_to_num(inverse)
    return LowRank(through[None].to(dtype), right.T[None].to(dtype))


@dataclass(frozen=True)
class ContextStates:
    """What a context leaves at queries' last tokens in every layer: the MLP's normed input, and the layer's output."""

    normed: Float[Tensor, "queries layers hidden"]
    output: Float[Tensor, "queries layers hidden"]


@dataclass
class FittingPatcher:
    """Fits each layer's patch to all rows, of one seed, when the pass reaches it.

    First D, so that z + D z is near what the MLP gets in context; then the change of the down projection, so that it
    writes what is then still missing of the layer's output in context.
    """

    context: ContextStates
    ridge: float
    patches: list[MlpPatch] = field(default_factory=list)

    def inputs(self, layer: int, residual: Tensor, normed: Tensor) -> LowRank:
        """D."""
        wanted = self.context.normed[:, layer]
        self._residual = residual.to(wanted.dtype)
        normed = normed.to(wanted.dtype)
        self._inputs = ridge_map(normed, wanted - normed, self.ridge)
        return self._inputs

    def output(self, layer: int, product: Tensor, written: Tensor) -> LowRank:
        """The change of the down projection."""
        wanted = self.context.output[:, layer]
        missing = wanted - self._residual - written.to(wanted.dtype)
        found = ridge_map(product.to(wanted.dtype), missing, self.ridge)
        self.patches.append(MlpPatch(self._inputs, found))
        return found


@torch.no_grad()
def fit_patches(model: PreTrainedModel, alone: Rows, context: ContextStates, ridge: float) -> list[MlpPatch]:
    """A patch of every layer that makes queries `alone` as they are with their context, as far as one patch can.

    `context` has what each of them has in context. Each layer's patch is fitted to the stream in which the layers below
    are patched already.
    """
    patcher = FittingPatcher(context, ridge)
    with patched_layer_by_layer(model, alone.last, patcher):
        hidden_states(model, alone)
    return patcher.patches


def stacked_patches(of_seeds: Sequence[Sequence[MlpPatch]]) -> list[MlpPatch]:
    """The patches of G seeds, layer by layer, as one batch's rows go through them."""

    def joined(maps: Sequence[LowRank]) -> LowRank:
        return LowRank(torch.cat([one.left for one in maps]), torch.cat([one.right for one in maps]))

    return [
        MlpPatch(joined([one.inputs for one in layer]), joined([one.output for one in layer]))
        for layer in zip(*of_seeds, strict=True)
    ]


Observer = Callable[[int, Tensor, Tensor], None]


@dataclass
class FixedPatcher:
    """Applies patches of G seeds to rows grouped by seed.

    `observe(layer, plain, patched)` gets what the layer leaves at the rows' last tokens `[rows, hidden]`, without its
    own patch and with it, the layers below being patched.
    """

    model: PreTrainedModel
    patches: Sequence[MlpPatch]
    observe: Observer | None = None

    def inputs(self, layer: int, residual: Tensor, normed: Tensor) -> LowRank:
        """D."""
        self._residual = residual.float()
        if self.observe:
            self._plain = self._residual + _plain_mlp(mlp(layers(self.model)[layer]), normed).float()
        return self.patches[layer].inputs

    def output(self, layer: int, product: Tensor, written: Tensor) -> LowRank:
        """The change of the down projection."""
        change = self.patches[layer].output
        if self.observe:
            patched = self._residual + written.float() + change(product[:, None])[:, 0].float()
            self.observe(layer, self._plain, patched)
        return change


def _plain_mlp(block: nn.Module, normed: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows hidden"]:
    """What the MLP itself makes of its inputs; hooks on its down projection are passed by."""
    gate, up = (projection(block, name)(normed) for name in (GATE, UP))
    down = projection(block, DOWN)
    return nn.functional.linear(block.act_fn(gate) * up, down.weight, down.bias)  # type: ignore[operator]
