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
from raydual.measure.grouping import free_bytes
from raydual.metrics.similarity import cosine
from raydual.model.anatomy import ATTENTION, KEY, OUTPUT, QUERY, VALUE
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
from raydual.model.recording import FIELDS, Recorder
from raydual.model.stacked import StackedLinear, Stacks


@dataclass
class DualRecorder(Recorder):
    """A recorder of the in-context pass that asks, at every layer, what fine-tuning would do to the same inputs.

    `simdual` holds, for each layer, the cosine `[batch]` of the context's exact update λ (o_demo - o_own) with the
    change that the fine-tuned projections `stacks` make to the attention over the query's own tokens, both of the
    last token and after the output projection; NaN where fine-tuning trains no projection of the attention.
    Fine-tuning's change itself is the field `tuning_update` `[batch, layers, hidden]`, if that is asked for.
    """

    stacks: Stacks = field(default_factory=dict)
    real: Tensor | None = None
    simdual: list[Tensor] = field(default_factory=list)
    tuned: "_Tuned | None" = None
    watches_inputs = True
    known: ClassVar[tuple[str, ...]] = (*FIELDS, "tuning_update")

    @record_function("simdual")
    def before_attention(self, module: nn.Module, states: Tensor, rotary: Rotary) -> None:
        """Make the fine-tuned keys and values, and queries if they are trained, of the layer's own inputs."""
        layer = layer_index(module)
        self.tuned = None
        if not any((layer, name) in self.stacks for name in ATTENTION):
            return

        def split(name: str) -> Tensor:
            return split_heads(module, _tuned(module, name, self.stacks, layer)(states))

        def turned(name: str) -> Tensor:
            return rotated(module, normed(module, name, split(name)).transpose(1, 2), rotary, heads_axis=1)

        query = turned(QUERY) if (layer, QUERY) in self.stacks else None
        key, value = self._by_row(turned(KEY)), self._by_row(split(VALUE).transpose(1, 2))
        self.tuned = _Tuned(query, key, value, self.stacks.get((layer, OUTPUT)))

    def _by_row(self, x: Tensor) -> Float[Tensor, "rows kv_heads width head_dim"]:
        return x if self.packing is None else self.packing.unpack(x)

    @record_function("simdual")
    def attention(self, layer: LayerAttention) -> None:
        """Keep the last row of a layer's attention, and compare the two updates."""
        super().attention(layer)
        assert layer.demonstrations is not None, "the in-context pass has demonstrations"
        assert self.real is not None, "set by whoever makes the recorder"
        if self.tuned is None:
            self.simdual.append(torch.full((len(self.real),), torch.nan, device=layer.query.device))
            return
        query = layer.query if self.tuned.query is None else self.tuned.query
        last = self._at_last(query, token_axis=2)[:, :, None]
        hidden = torch.zeros(self.real.shape, device=last.device).masked_fill(
            ~self.real, torch.finfo(torch.float32).min
        )
        kept = (self.tuned.key, self.tuned.value, hidden[:, None, None])
        tuned_out = attend(last, *kept, layer.scaling).out[:, :, 0].float()
        own_out = self._at_last(layer.own.out, token_axis=2).float()
        weight = output_weight(layer.module)
        by_tuning, by_context = (
            change.flatten(1) @ weight.T
            for change in (tuned_out - own_out, self.context_change(layer.own, layer.demonstrations))
        )
        if self.tuned.output is not None:
            by_tuning = by_tuning + _change_of_output(layer.module, self.tuned.output, tuned_out.flatten(1))
        self.simdual.append(cosine(by_context, by_tuning))
        if "tuning_update" in self.fields:
            self.layers["tuning_update"].append(by_tuning)


@dataclass(frozen=True)
class _Tuned:
    """What fine-tuning makes of a layer's inputs; None: that part is not trained."""

    query: Tensor | None
    key: Tensor
    value: Tensor
    output: StackedLinear | None


def _change_of_output(
    block: nn.Module, tuned: StackedLinear, heads: Float[Tensor, "batch width"]
) -> Float[Tensor, "batch hidden"]:
    """What the tuned output projection makes of the heads' outputs beyond what the block's own does."""
    base = projection(block, OUTPUT)
    change = tuned.weight - base.weight.float()
    found = (heads.view(len(change), -1, heads.shape[-1]) @ change.transpose(1, 2)).flatten(0, 1)
    if tuned.bias is None:
        return found
    shift = tuned.bias - base.bias.float()
    return found + shift.repeat_interleave(len(found) // len(shift), dim=0)


@record_function("simdw")
def context_updates(
    model: PreTrainedModel, inputs: Sequence[Float[Tensor, "G prefix hidden"]], real: Tensor
) -> list[Float[Tensor, "G kv_heads head_dim head_dim"]]:
    """ΔW_ICL of the relaxed linear attention in every layer, from the attention inputs of the demonstrations."""
    return [_outer(block, {}, index, x, real) for index, (block, x) in enumerate(_blocks(model, inputs))]


class QueryInputs:
    """The attention inputs of every query's tokens in the zero-shot pass, which depend on no seed.

    Those of all chunks are kept if that takes no more than `most_bytes`, by default an eighth of the memory that is
    free now; otherwise each use makes the pass again.
    """

    def __init__(self, model: PreTrainedModel, chunks: Sequence[Chunk], most_bytes: int | None = None) -> None:
        self.model = model
        size = model.config.num_hidden_layers * model.config.hidden_size * torch.float32.itemsize
        most = free_bytes(model.device) // 8 if most_bytes is None else most_bytes
        kept = size * sum(chunk.alone.ids.numel() for chunk in chunks) <= most
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
    """Cosine of ΔW_ICL with what fine-tuning changes in W_ZSL, the sum over the query's tokens; mean over heads.

    NaN where it trains neither keys nor values, of which W_ZSL is made.
    """
    groups, n = len(contexts[0]), len(chunk.index)
    rows: Rows = chunk.alone.repeat(groups)
    found = []
    for index, (block, x) in enumerate(_blocks(model, inputs)):
        if not any((index, name) in stacks for name in (KEY, VALUE)):
            found.append(x.new_full((groups, n), torch.nan))
            continue
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
