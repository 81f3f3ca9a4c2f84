"""The updates themselves: the context's against fine-tuning's (SimDual, SimΔW; docs/science.md, section 4)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.profiler import record_function
from transformers import PreTrainedModel

from raydual.measure.conditions import Chunk
from raydual.metrics.similarity import cosine
from raydual.model.anatomy import KEY, VALUE
from raydual.model.attention import LayerAttention, attend
from raydual.model.modules import (
    Rotary,
    attention_blocks,
    layer_index,
    normed,
    output_weight,
    projection,
    rotated,
    split_heads,
)
from raydual.model.passes import Rows, states_at
from raydual.model.recording import Recorder
from raydual.model.stacked import Stacks


@dataclass
class DualRecorder(Recorder):
    """A recorder of the in-context pass that asks, at every layer, what fine-tuning would do to the same inputs.

    `simdual` holds, for each layer, the cosine `[batch]` of the context's exact update λ (o_demo - o_own) with the
    change that the fine-tuned projections `stacks` make to the attention over the query's own tokens, both of the
    last token and after the output projection.
    """

    stacks: Stacks = field(default_factory=dict)
    real: Tensor | None = None
    simdual: list[Tensor] = field(default_factory=list)
    tuned: tuple[Tensor, Tensor] | None = None
    watches_inputs = True

    @record_function("simdual")
    def before_attention(self, module: nn.Module, states: Tensor, rotary: Rotary) -> None:
        """Make the fine-tuned keys and values of the layer's own inputs."""
        key, value = (
            split_heads(module, _tuned(module, name, self.stacks, layer_index(module))(states)) for name in (KEY, VALUE)
        )
        key = rotated(module, normed(module, KEY, key).transpose(1, 2), rotary, heads_axis=1)
        self.tuned = self._by_row(key), self._by_row(value.transpose(1, 2))

    def _by_row(self, x: Tensor) -> Float[Tensor, "rows kv_heads width head_dim"]:
        return x if self.packing is None else self.packing.unpack(x)

    @record_function("simdual")
    def attention(self, layer: LayerAttention) -> None:
        """Keep the last row of a layer's attention, and compare the two updates."""
        super().attention(layer)
        assert layer.demonstrations is not None, "the in-context pass has demonstrations"
        assert self.tuned is not None, "set before the attention"
        assert self.real is not None, "set by whoever makes the recorder"
        last = self._at_last(layer.query, token_axis=2)[:, :, None]
        hidden = torch.zeros(self.real.shape, device=last.device).masked_fill(
            ~self.real, torch.finfo(torch.float32).min
        )
        tuned_out = attend(last, *self.tuned, hidden[:, None, None], layer.scaling).out[:, :, 0].float()
        own_out = self._at_last(layer.own.out, token_axis=2).float()
        weight = output_weight(layer.module)
        by_tuning, by_context = (
            change.flatten(1) @ weight.T
            for change in (tuned_out - own_out, self.context_change(layer.own, layer.demonstrations))
        )
        self.simdual.append(cosine(by_context, by_tuning))


@record_function("simdw")
def context_updates(
    model: PreTrainedModel, inputs: Sequence[Float[Tensor, "G prefix hidden"]], real: Tensor
) -> list[Float[Tensor, "G kv_heads head_dim head_dim"]]:
    """ΔW_ICL of the relaxed linear attention in every layer, from the attention inputs of the demonstrations."""
    return [_outer(block, {}, index, x, real) for index, (block, x) in enumerate(_blocks(model, inputs))]


class QueryInputs:
    """The attention inputs of every query's tokens in the zero-shot pass, which depend on no seed.

    Those of all chunks are kept if that takes no more than `MOST_BYTES` (by type of device); otherwise each use makes
    the pass again.
    """

    MOST_BYTES: ClassVar = {"cpu": 2**30, "cuda": 2**32}

    def __init__(self, model: PreTrainedModel, chunks: Sequence[Chunk]) -> None:
        self.model = model
        size = model.config.num_hidden_layers * model.config.hidden_size * torch.float32.itemsize
        kept = size * sum(chunk.alone.ids.numel() for chunk in chunks) <= self.MOST_BYTES[model.device.type]
        self._kept: dict[int, list[Tensor]] | None = {} if kept else None

    @record_function("simdw")
    def of(self, chunk: Chunk) -> list[Float[Tensor, "n tokens hidden"]]:
        """Those of a chunk, by layer."""
        if self._kept is None:
            return self._inputs(chunk)
        first = int(chunk.index[0])
        if first not in self._kept:
            self._kept[first] = self._inputs(chunk)
        return self._kept[first]

    def _inputs(self, chunk: Chunk) -> list[Tensor]:
        recorder = Recorder(("attn_in",))
        states_at(self.model, chunk.alone, chunk.alone.last[:, None], recorder=recorder)
        return recorder.layers["attn_in"]


@record_function("simdw")
def simdw(
    model: PreTrainedModel,
    chunk: Chunk,
    inputs: Sequence[Float[Tensor, "n tokens hidden"]],
    stacks: Stacks,
    contexts: Sequence[Float[Tensor, "G kv_heads head_dim head_dim"]],
) -> Float[Tensor, "G n layers"]:
    """Cosine of ΔW_ICL with what fine-tuning changes in W_ZSL, the sum over the query's tokens; mean over heads."""
    groups, n = len(contexts[0]), len(chunk.index)
    rows: Rows = chunk.alone.repeat(groups)
    found = []
    for index, (block, x) in enumerate(_blocks(model, inputs)):
        base = _outer(block, {}, index, x, chunk.alone.real)
        tuned = _outer(block, stacks, index, x.repeat(groups, 1, 1), rows.real)
        change = tuned.view(groups, n, *base.shape[1:]) - base
        found.append(cosine(contexts[index][:, None].flatten(3), change.flatten(3)).nanmean(dim=-1))
    return torch.stack(found, dim=-1)


def _blocks(model: PreTrainedModel, inputs: Sequence[Tensor]) -> Iterator[tuple[nn.Module, Tensor]]:
    return zip(attention_blocks(model), inputs, strict=True)


def _outer(
    block: nn.Module, stacks: Stacks, index: int, x: Float[Tensor, "batch tokens hidden"], real: Tensor
) -> Float[Tensor, "batch kv_heads head_dim head_dim"]:
    """Σ over tokens of (W_V x) ⊗ (W_K x), per key/value head: raw projections, no norm, no rotary."""
    value, key = (split_heads(block, _project(_tuned(block, name, stacks, index), x)) for name in (VALUE, KEY))
    return (value * real[..., None, None]).permute(0, 2, 3, 1) @ key.transpose(1, 2)


def _tuned(block: nn.Module, name: str, stacks: Stacks, index: int) -> nn.Module:
    """A projection of layer `index` as the `stacks` have it, or the block's own if they don't."""
    return stacks.get((index, name), projection(block, name))


def _project(linear: nn.Module, x: Tensor) -> Tensor:
    """A projection in float32, whatever the model's dtype."""
    if isinstance(linear, nn.Linear):
        bias = None if linear.bias is None else linear.bias.float()
        return nn.functional.linear(x, linear.weight.float(), bias)
    return linear(x)
